/** A file as a picture, by its content and not by its name. */

import { decodeDicom } from "./dicom.js";
import { decodeJpeg } from "./jpeg.js";
import { decodePng } from "./png.js";
import { Refused } from "./refused.js";

/** Kinds that are told from their first bytes, so that a refusal names them. */
const OTHERS = [
  ["JPEG 2000", "0000000c6a502020"],
  ["JPEG 2000", "ff4fff51"],
  ["JPEG-LS", "ffd8fff7"],
  ["TIFF", "49492a00"],
  ["TIFF", "4d4d002a"],
  ["GIF", "47494638"],
  ["WebP or another RIFF file", "52494646"],
  ["BMP", "424d"],
  ["PDF", "25504446"],
  ["ZIP", "504b0304"],
];

/** Larger files are not read into memory. */
const MAX_BYTES = 500_000_000;

/**
 * @param {File} file
 * @returns {Promise<{width: number, height: number, channels: number, data: Uint8Array}>} uint8, grey or RGB
 * @throws {Refused} with the reason in words
 */
export async function decode(file) {
  if (file.size === 0) throw new Refused("the file is empty");
  if (file.size > MAX_BYTES) throw new Refused(`the file has more than ${MAX_BYTES / 1e6} MB`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  try {
    if (begins(bytes, "89504e470d0a1a0a")) return decodePng(bytes);
    if (begins(bytes, "ffd8ff")) return await decodeJpeg(bytes);
    if (begins(bytes.subarray(128), "4449434d")) return await decodeDicom(bytes);
  } catch (error) {
    if (error instanceof Refused) throw error;
    throw new Refused(`cannot be decoded: ${error.message ?? error.exception ?? error}`);
  }
  const known = OTHERS.find(([, start]) => begins(bytes, start));
  throw new Refused(
    known
      ? `${known[0]} is not read by this page; PNG, JPEG and DICOM are`
      : "not an image, or in a format that is not read; PNG, JPEG and DICOM are",
  );
}

function begins(bytes, hex) {
  return hex.match(/../g).every((pair, i) => bytes[i] === parseInt(pair, 16));
}
