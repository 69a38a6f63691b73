/** A DICOM file with one frame as a picture, by the rules of Python's runtime. */

import { shownGreys } from "./greys.js";
import { decodeJpeg, isWhole, jpegHeader } from "./jpeg.js";
import { Refused, requireSize } from "./refused.js";
import { unpackRuns } from "./runs.js";
import dicomParser from "./vendor/dicomParser.min.js";
import { inflateSync } from "./vendor/fflate/browser.js";
import { Decoder as LosslessDecoder } from "./vendor/lossless-min.js";

const BIG_ENDIAN = "1.2.840.10008.1.2.2";
const RAW = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", BIG_ENDIAN];
const RUNS = "1.2.840.10008.1.2.5";
const LOSSY = ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"];
const LOSSLESS = ["1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"];
/** Beginnings of transfer syntaxes that the page does not read. */
const NAMES = {
  "1.2.840.10008.1.2.4.8": "JPEG-LS",
  "1.2.840.10008.1.2.4.9": "JPEG 2000",
  "1.2.840.10008.1.2.4.20": "High-Throughput JPEG 2000",
  "1.2.840.10008.1.2.4.11": "JPEG XL",
};

const GREY = ["MONOCHROME1", "MONOCHROME2"];

/**
 * @param {Uint8Array} bytes a file with a preamble
 * @returns {Promise<{width: number, height: number, channels: number, data: Uint8Array}>} grey or RGB
 */
export async function decodeDicom(bytes) {
  const set = dicomParser.parseDicom(bytes, { inflater: inflated });
  const syntax = set.string("x00020010") ?? "";
  const header = checked(set, syntax);
  if (LOSSY.includes(syntax)) return lossy(set, header);
  if (header.samples === 3) return colours(set, header, syntax);
  if (LOSSLESS.includes(syntax)) return lossless(set, header);
  const isBig = syntax === BIG_ENDIAN;
  if (isBig && header.allocated === 8 && set.elements.x7fe00010.vr === "OW") {
    throw new Refused("DICOM with words of two pixels is not read by this page");
  }
  return grey(numbers(samples(set, header, syntax), header.allocated, isBig), set, header);
}

/** JPEG of 8 bits, by the browser's decoder. */
async function lossy(set, header) {
  const stream = frameOf(set);
  const { bits } = matching(stream, header);
  if (bits !== 8) throw new Refused(`DICOM with JPEG of ${bits} bits is not read by this page`);
  if (header.samples === 3 && !header.photometric.startsWith("YBR_FULL")) throw new Refused(COLOURS);
  const picture = await decodeJpeg(stream);
  return header.samples === 3 ? picture : grey(picture.data, set, asInStream(header, bits));
}

function lossless(set, header) {
  const stream = frameOf(set);
  const { bits } = matching(stream, header);
  if (!isWhole(stream)) throw new Refused("DICOM is truncated");
  const wide = bits > 8 ? 16 : 8;
  const decoded = new LosslessDecoder().decompress(stream.buffer, 0, stream.length);
  return grey(numbers(new Uint8Array(decoded), wide, false), set, asInStream(header, bits));
}

/** The header with the bits that a stream says, which may differ from those that the attributes say. */
function asInStream(header, bits) {
  if (header.high !== header.stored - 1 || (header.isSigned && header.stored !== bits)) {
    throw new Refused("DICOM with signed or shifted values in JPEG is not read by this page");
  }
  return { ...header, stored: bits, high: bits - 1 };
}

const COLOURS = "DICOM with colours that are compressed or not RGB is not read by this page";

/** Unpack a deflated file behind its meta information, as the parser asks for it. */
function inflated(bytes, position) {
  const body = inflateSync(bytes.subarray(position));
  const whole = new Uint8Array(position + body.length);
  whole.set(bytes.subarray(0, position));
  whole.set(body, position);
  return whole;
}

/** What decides how the pixels are read; files of other kinds are refused by name. */
function checked(set, syntax) {
  const isRead = RAW.includes(syntax) || syntax === RUNS || LOSSY.includes(syntax) || LOSSLESS.includes(syntax);
  if (!isRead) {
    const name = Object.keys(NAMES).find((start) => syntax.startsWith(start));
    throw new Refused(`DICOM in ${NAMES[name] ?? `the transfer syntax ${syntax || "(none)"}`} is not read by this page`);
  }
  if (!set.elements.x7fe00010) throw new Refused("DICOM without an image");
  const header = {
    rows: required(set, "x00280010", "Rows"),
    columns: required(set, "x00280011", "Columns"),
    allocated: required(set, "x00280100", "BitsAllocated"),
    stored: required(set, "x00280101", "BitsStored"),
    samples: required(set, "x00280002", "SamplesPerPixel"),
    sign: set.uint16("x00280103"),
    photometric: set.string("x00280004"),
  };
  if (![0, 1].includes(header.sign)) {
    throw new Refused(`DICOM with a PixelRepresentation of ${header.sign}, which is not 0 or 1`);
  }
  header.isSigned = header.sign === 1;
  header.high = set.uint16("x00280102") ?? header.stored - 1;
  requireSize(header.columns, header.rows);
  const frames = Number(set.string("x00280008") ?? 1);
  if (frames > 1) throw new Refused(`DICOM with ${frames} frames; only single ones are read`);
  const isGrey = GREY.includes(header.photometric) && header.samples === 1;
  if (!isGrey && header.samples !== 3) {
    throw new Refused(`DICOM photometric interpretation ${header.photometric} is not read by this page`);
  }
  if (![8, 16].includes(header.allocated) || header.stored > header.allocated) {
    throw new Refused(`DICOM with ${header.stored} bits stored of ${header.allocated} is not read by this page`);
  }
  if (header.high < header.stored - 1 || header.high >= header.allocated) {
    throw new Refused(`DICOM whose ${header.stored} bits stored cannot end at the HighBit ${header.high}`);
  }
  return header;
}

function required(set, tag, name) {
  const value = set.uint16(tag);
  if (!value) throw new Refused(`DICOM without ${name}`);
  return value;
}

/** The one compressed frame. */
function frameOf(set) {
  const element = set.elements.x7fe00010;
  if (!element.fragments?.length) throw new Refused("DICOM is truncated");
  if ((element.basicOffsetTable?.length ?? 0) > 1) throw new Refused("DICOM with one frame that holds several images");
  const bytes = dicomParser.readEncapsulatedPixelDataFromFragments(set, element, 0, element.fragments.length);
  return new Uint8Array(bytes); // a copy of its own, whose buffer begins with it
}

/** The header of a JPEG stream, which must be of the size that the attributes say. */
function matching(stream, { rows, columns, samples }) {
  const found = jpegHeader(stream);
  if (found.width !== columns || found.height !== rows || found.samples !== samples) {
    throw new Refused(
      `DICOM of ${columns}x${rows} pixels with ${samples} samples, but its stream has ` +
        `${found.width}x${found.height} with ${found.samples}`,
    );
  }
  return found;
}

/** The bytes of samples that are plain or run lengths. */
function samples(set, header, syntax) {
  const needed = (header.rows * header.columns * header.samples * header.allocated) / 8;
  if (syntax === RUNS) return unpackRuns(frameOf(set), needed, (header.samples * header.allocated) / 8);
  const { dataOffset, length } = set.elements.x7fe00010;
  if (length < needed || dataOffset + needed > set.byteArray.length) throw new Refused("DICOM is truncated");
  if (length >= Math.max(2 * needed, needed + 2)) {
    throw new Refused(`DICOM with ${length} bytes of pixels, but its attributes need ${needed}`);
  }
  return set.byteArray.subarray(dataOffset, dataOffset + needed);
}

/** Unsigned numbers of 8 or 16 bits. */
function numbers(bytes, bits, isBig) {
  if (bits === 8) return bytes;
  const found = new Uint16Array(bytes.length / 2);
  for (let i = 0; i < found.length; i++) {
    found[i] = isBig ? bytes[2 * i] * 256 + bytes[2 * i + 1] : bytes[2 * i] + bytes[2 * i + 1] * 256;
  }
  return found;
}

/** Bits above and below those stored may hold anything, such as a drawing. */
function grey(raw, set, { rows, columns, stored, high, isSigned }) {
  const values = new Int32Array(raw.length);
  const below = high + 1 - stored;
  const half = isSigned ? 2 ** (stored - 1) : 0;
  const mask = 2 ** stored - 1;
  for (let i = 0; i < raw.length; i++) {
    const value = (raw[i] >> below) & mask;
    values[i] = isSigned && value >= half ? value - 2 * half : value;
  }
  return { width: columns, height: rows, channels: 1, data: shownGreys(values, set, isSigned) };
}

/** Plain RGB of 8 bits, pixel by pixel or colour by colour. */
function colours(set, header, syntax) {
  const isPlain = RAW.includes(syntax) || syntax === RUNS;
  if (!isPlain || header.photometric !== "RGB" || header.stored !== 8 || header.allocated !== 8) throw new Refused(COLOURS);
  const bytes = samples(set, header, syntax);
  const isPlanar = syntax === RUNS ? false : set.uint16("x00280006") === 1;
  const pixels = header.rows * header.columns;
  const data = new Uint8Array(3 * pixels);
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < 3; c++) data[3 * i + c] = bytes[isPlanar ? c * pixels + i : 3 * i + c];
  }
  return { width: header.columns, height: header.rows, channels: 3, data };
}
