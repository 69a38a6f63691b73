/** PNG of 1 to 16 bits as a picture of 8 bits, by the rules of Python's runtime. */

import { Refused, requireSize } from "./refused.js";
import { stretched } from "./round.js";
import PngDecoder from "./vendor/fast-png/png_decoder.js";

const SIXTEEN_BITS = "colour or transparency with 16 bits per sample is not read; convert it to 8 bits";

/**
 * @param {Uint8Array} bytes
 * @returns {{width: number, height: number, channels: number, data: Uint8Array}} grey or RGB
 */
export function decodePng(bytes) {
  const header = new DataView(bytes.buffer, bytes.byteOffset);
  requireSize(header.getUint32(16), header.getUint32(20));
  const [bits, isInterlaced] = [bytes[24], bytes[28] !== 0];
  if (isInterlaced && bits < 8) throw new Refused("interlaced PNG of less than 8 bits is not read here");
  const png = new Checked(bytes, { checkCrc: true }).decode();
  const { width, height, channels } = png;
  if (png.depth === 16) return { width, height, channels: 1, data: sixteen(png) };
  if (png.palette) return { width, height, channels: 3, data: coloured(png) };
  const data = png.depth === 8 ? png.data : spread(png);
  if (channels === 2 || channels === 4) return onBlack(data, width, height, channels);
  if (png.transparency && png.depth > 1) blacken(data, channels, png.transparency, 255 / (2 ** png.depth - 1));
  return { width, height, channels, data };
}

/** A decoder that refuses what it would read otherwise than Python's runtime does. */
class Checked extends PngDecoder {
  decodeChunk(length, type) {
    if (type === "eXIf" && turned(new Uint8Array(this.buffer, this.byteOffset + this.offset, length))) {
      throw new Refused("PNG that is turned by its EXIF orientation is not read here");
    }
    if (type === "iCCP") this.skipProfile(length);
    else super.decodeChunk(length, type);
  }

  /** Profiles are not applied, and may unpack to more than the memory holds. */
  skipProfile(length) {
    this.skip(length + 4);
  }
}

/** Whether EXIF says an orientation (tag 0x0112) other than upright. */
function turned(exif) {
  if (exif.length < 8) return false;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.length);
  const isLittle = exif[0] === 0x49;
  const start = view.getUint32(4, isLittle);
  if (start + 2 > exif.length) return false;
  const count = view.getUint16(start, isLittle);
  for (let i = 0, at = start + 2; i < count && at + 12 <= exif.length; i++, at += 12) {
    if (view.getUint16(at, isLittle) === 0x0112) return view.getUint16(at + 8, isLittle) > 1;
  }
  return false;
}

/** Greys of 16 bits by their stored range. */
function sixteen({ channels, data, transparency }) {
  if (channels !== 1) throw new Refused(SIXTEEN_BITS);
  if (transparency?.length && data.includes(transparency[0])) {
    if (data.some((value) => value < transparency[0])) throw new Refused(SIXTEEN_BITS); // the lowest is black anyway
  }
  return stretched(data);
}

/** Samples of 1, 2 or 4 bits, whose rows begin with a byte each, as 0..255. */
function spread({ width, height, depth, data }) {
  const greys = new Uint8Array(width * height);
  const scale = 255 / (2 ** depth - 1);
  eachPacked(width, height, depth, data, (i, value) => (greys[i] = value * scale));
  return greys;
}

function eachPacked(width, height, depth, data, use) {
  const perByte = 8 / depth;
  const rowBytes = Math.ceil(width / perByte);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const byte = data[y * rowBytes + Math.floor(x / perByte)];
      use(y * width + x, (byte >> (8 - depth * ((x % perByte) + 1))) & (2 ** depth - 1));
    }
  }
}

function coloured({ width, height, depth, data, palette }) {
  const colours = new Uint8Array(width * height * 3);
  const shown = palette.map(([red, green, blue, alpha = 255]) => [red, green, blue].map((v) => over(v, alpha)));
  eachPacked(width, height, depth, data, (i, index) => colours.set(shown[index] ?? [0, 0, 0], 3 * i));
  return colours;
}

/** Pixels of one value, which the file says is transparent, become black. */
function blacken(data, channels, transparency, scale) {
  for (let at = 0; at < data.length; at += channels) {
    let isSame = true;
    for (let c = 0; c < channels; c++) isSame &&= data[at + c] === transparency[c] * scale;
    if (isSame) data.fill(0, at, at + channels);
  }
}

function onBlack(data, width, height, channels) {
  const colours = channels - 1;
  const shown = new Uint8Array(width * height * colours);
  for (let i = 0; i < width * height; i++) {
    const alpha = data[i * channels + colours];
    for (let c = 0; c < colours; c++) shown[i * colours + c] = over(data[i * channels + c], alpha);
  }
  return { width, height, channels: colours, data: shown };
}

/** A value on black, in the integers of Pillow's alpha_composite. */
function over(value, alpha) {
  const sum = value * alpha * 128 + (128 << 7);
  return (((sum >> 8) + sum) >> 8) >> 7;
}
