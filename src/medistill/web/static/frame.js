/** Fitting a picture into the square frame that a model takes, as Python's runtime does. */

import { resize } from "./resize.js";
import { roundHalfEven } from "./round.js";

/**
 * @param {{width: number, height: number, channels: number, data: Uint8Array}} picture grey or RGB
 * @param {{size: number, channels: number, fit: string}} framing
 * @returns {Uint8Array} (channels, size, size)
 */
export function toFrame(picture, { size, channels, fit }) {
  const { source, target } = placement(picture.width, picture.height, size, fit);
  const width = target[2] - target[0];
  const height = target[3] - target[1];
  if (channels === 1) picture = grey(picture);
  const isWhole = source[0] === 0 && source[1] === 0 && source[2] === picture.width && source[3] === picture.height;
  if (!isWhole || width !== picture.width || height !== picture.height) {
    picture = resize(picture, source, width, height);
  }
  const frame = new Uint8Array(channels * size * size);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const pixel = (y * width + x) * picture.channels + Math.min(c, picture.channels - 1);
        frame[(c * size + target[1] + y) * size + target[0] + x] = picture.data[pixel];
      }
    }
  }
  return frame;
}

/** Which part of a picture goes where in the frame: two boxes [left, top, right, bottom] in pixels. */
function placement(width, height, size, fit) {
  if (fit === "pad") {
    const longest = Math.max(width, height);
    const [inner, outer] = [width, height].map((side) => Math.max(1, roundHalfEven((side * size) / longest)));
    const left = Math.floor((size - inner) / 2);
    const top = Math.floor((size - outer) / 2);
    return { source: [0, 0, width, height], target: [left, top, left + inner, top + outer] };
  }
  if (fit === "crop") {
    const side = Math.min(width, height);
    const left = Math.floor((width - side) / 2);
    const top = Math.floor((height - side) / 2);
    return { source: [left, top, left + side, top + side], target: [0, 0, size, size] };
  }
  return { source: [0, 0, width, height], target: [0, 0, size, size] };
}

/** ITU-R 601 luma in Pillow's integers. */
function grey({ width, height, channels, data }) {
  if (channels === 1) return { width, height, channels, data };
  const luma = new Uint8Array(width * height);
  for (let i = 0, at = 0; i < luma.length; i++, at += 3) {
    luma[i] = (data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 0x8000) >> 16;
  }
  return { width, height, channels: 1, data: luma };
}
