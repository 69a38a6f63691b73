/** JPEG by the browser's own decoder. */

import { Refused, requireSize } from "./refused.js";

/**
 * What the frame header of a JPEG stream says.
 * @returns {{marker: number, bits: number, height: number, width: number, samples: number}}
 */
export function jpegHeader(bytes) {
  let at = 2;
  while (at + 9 < bytes.length) {
    if (bytes[at] !== 0xff) throw new Error("no marker where one must be");
    const marker = bytes[at + 1];
    if (marker === 0xff) {
      at += 1;
      continue;
    }
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) {
      const [bits, height, width] = [bytes[at + 4], word(bytes, at + 5), word(bytes, at + 7)];
      return { marker, bits, height, width, samples: bytes[at + 9] };
    }
    at += 2 + word(bytes, at + 2);
  }
  throw new Refused("the image is truncated");
}

function word(bytes, at) {
  return bytes[at] * 256 + bytes[at + 1];
}

/**
 * @param {Uint8Array} bytes
 * @returns {Promise<{width: number, height: number, channels: number, data: Uint8Array}>} upright, grey or RGB
 */
export async function decodeJpeg(bytes) {
  const { bits, width, height, samples } = jpegHeader(bytes);
  requireSize(width, height);
  if (bits !== 8) throw new Refused(`JPEG of ${bits} bits is not read here`);
  if (samples !== 1 && samples !== 3) throw new Refused("JPEG of four colours (CMYK) is not read here");
  if (!isWhole(bytes)) throw new Refused("the image is truncated"); // browsers show the rest grey
  const blob = new Blob([bytes], { type: "image/jpeg" });
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  try {
    return pixelsOf(bitmap, samples);
  } finally {
    bitmap.close();
  }
}

/** Whether the end marker is there. */
export function isWhole(bytes) {
  for (let at = bytes.length - 2; at > 2; at--) if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return true;
  return false;
}

function pixelsOf(bitmap, channels) {
  const { width, height } = bitmap;
  const canvas = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (canvas === null) throw new Refused(`${width}x${height} pixels are more than this browser can draw`);
  canvas.drawImage(bitmap, 0, 0);
  const shown = canvas.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < channels; c++) data[i * channels + c] = shown[4 * i + c];
  }
  return { width, height, channels, data };
}
