/** A file that is not read, with the reason in words; every other error means that a file is damaged. */
export class Refused extends Error {}

/** Larger images are refused before they are decoded, as by Python's runtime. */
const MAX_PIXELS = 100_000_000;

export function requireSize(width, height) {
  if (!(width > 0 && height > 0)) throw new Refused("the image has no pixels");
  if (width * height > MAX_PIXELS) {
    throw new Refused(`${width}x${height} pixels exceeds the limit of ${MAX_PIXELS / 1e6} million pixels`);
  }
}
