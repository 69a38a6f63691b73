/** Stored values of a DICOM file as a viewer shows them (PS3.3 C.11): modality LUT, VOI LUT or window, polarity. */

import { Refused } from "./refused.js";
import { roundHalfEven } from "./round.js";

/**
 * @param {Int32Array} stored
 * @param {object} set the attributes, by dicom-parser
 * @param {boolean} isSigned whether stored values are
 * @returns {Uint8Array} 0 black to 255 white
 */
export function shownGreys(stored, set, isSigned) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of stored) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const levels = Float64Array.from({ length: high - low + 1 }, (_, i) => low + i);
  const values = modality(levels, set, isSigned);
  const shares = voi(values, set) ?? range(values, seen(stored, low, levels.length), padding(levels, set, isSigned));
  const isInverted = inverted(set);
  const table = Uint8Array.from(shares, (share) => roundHalfEven(255 * (isInverted ? 1 - share : share)));
  return Uint8Array.from(stored, (value) => table[value - low]);
}

function number(set, tag, name) {
  const text = set.string(tag)?.split("\\")[0].trim();
  if (!text) return null;
  const value = Number(text);
  if (!Number.isFinite(value)) throw new Refused(`DICOM with a ${name} of '${text}', which is not a number`);
  return value;
}

function modality(levels, set, isSigned) {
  const table = lut(set.elements.x00283000, set, isSigned);
  if (table) return levels.map((level) => entryAt(table, level));
  const slope = number(set, "x00281053", "RescaleSlope") ?? 1;
  if (slope === 0) throw new Refused("DICOM with a RescaleSlope of 0, which makes all values the same");
  const intercept = number(set, "x00281052", "RescaleIntercept") ?? 0;
  return levels.map((level) => level * slope + intercept);
}

/** Shares 0..1 of the range shown; null where the file says none. */
function voi(values, set) {
  const table = lut(set.elements.x00283010, set, values.some((value) => value < 0));
  if (table) return values.map((value) => entryAt(table, value) / (2 ** table.bits - 1));
  let centre = number(set, "x00281050", "WindowCenter");
  let width = number(set, "x00281051", "WindowWidth");
  if (centre === null || width === null) return null;
  const kind = set.string("x00281056") || "LINEAR";
  if (!["LINEAR", "LINEAR_EXACT", "SIGMOID"].includes(kind)) {
    throw new Refused(`DICOM with the VOI LUT function ${kind} is not read`);
  }
  if (kind === "SIGMOID" && width > 0) {
    return values.map((value) => 0.5 + 0.5 * Math.tanh((2 * (value - centre)) / width));
  }
  if (kind === "LINEAR" && width >= 1) {
    centre -= 0.5;
    width -= 1;
  } else if (kind !== "LINEAR_EXACT" || width <= 0) {
    throw new Refused(`DICOM with a window width of ${width} for the VOI LUT function ${kind}`);
  }
  if (width === 0) return values.map((value) => (value > centre ? 1 : 0));
  return values.map((value) => clipped((value - centre) / width + 0.5));
}

function clipped(share) {
  return Math.min(1, Math.max(0, share));
}

/** Which levels occur. */
function seen(stored, low, count) {
  const occurs = new Uint8Array(count);
  for (const value of stored) occurs[value - low] = 1;
  return occurs;
}

/** Shares of the range of values that occur and are no padding. */
function range(values, occurs, isPadding) {
  const shown = values.filter((_, i) => occurs[i] && !isPadding[i]);
  if (shown.length === 0) return new Float64Array(values.length);
  const low = shown.reduce((least, value) => Math.min(least, value));
  const high = shown.reduce((most, value) => Math.max(most, value));
  if (high === low) return new Float64Array(values.length);
  return values.map((value) => clipped((value - low) / (high - low)));
}

function padding(levels, set, isSigned) {
  const read = (tag) => (set.elements[tag] ? (isSigned ? set.int16(tag) : set.uint16(tag)) : undefined);
  const first = read("x00280120");
  if (first === undefined) return new Uint8Array(levels.length);
  const last = read("x00280121") ?? first;
  return Uint8Array.from(levels, (level) => level >= Math.min(first, last) && level <= Math.max(first, last));
}

/** Whether low values are white; two attributes say so. */
function inverted(set) {
  const photometric = set.string("x00280004");
  const isInverted = photometric === "MONOCHROME1";
  const shape = set.string("x20500020");
  if (["IDENTITY", "INVERSE"].includes(shape) && isInverted !== (shape === "INVERSE")) {
    throw new Refused(`DICOM that is ${photometric} with the PresentationLUTShape ${shape}`);
  }
  return isInverted;
}

/** Entries of a look-up table, the value of the first, and bits of each; null where there is none. */
function lut(sequence, set, isSigned) {
  const item = sequence?.items?.[0]?.dataSet;
  const data = item?.elements.x00283006;
  if (!item || (!data && !item.elements.x00283002)) return null;
  if (!data || !item.elements.x00283002) throw new Refused("DICOM with a look-up table that is not complete");
  const count = item.uint16("x00283002", 0) || 65536;
  let first = item.uint16("x00283002", 1);
  const bits = item.uint16("x00283002", 2);
  if (isSigned && first >= 32768) first -= 65536;
  const isPacked = bits === 8 && data.length < 2 * count;
  if (data.length < count * (isPacked ? 1 : 2)) throw new Refused("DICOM with a look-up table that is cut off");
  const entries = Array.from({ length: count }, (_, i) =>
    isPacked ? item.byteArray[data.dataOffset + i] : item.uint16("x00283006", i),
  );
  if (bits < 1 || bits > 16 || entries.some((entry) => entry >= 2 ** bits)) {
    throw new Refused(`DICOM with a look-up table of ${bits} bits that holds more`);
  }
  return { entries, first, bits };
}

/** The entry of a value; values outside take the first or the last. */
function entryAt({ entries, first }, value) {
  return entries[Math.min(entries.length - 1, Math.max(0, roundHalfEven(value) - first))];
}
