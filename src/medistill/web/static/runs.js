/** DICOM's run lengths (PS3.5 annex G). */

import { Refused } from "./refused.js";

/**
 * @param {Uint8Array} frame
 * @param {number} length bytes of the pixels
 * @param {number} segments one per byte of a pixel: of each sample the highest byte first
 * @returns {Uint8Array} samples side by side, their lowest byte first
 */
export function unpackRuns(frame, length, segments) {
  const header = new DataView(frame.buffer, frame.byteOffset);
  if (header.getUint32(0, true) !== segments) {
    throw new Refused(`DICOM with ${header.getUint32(0, true)} segments of run lengths in place of ${segments}`);
  }
  const pixels = length / segments;
  const wide = segments === 2; // two bytes of one sample; three are colours of a byte each
  const result = new Uint8Array(length);
  for (let segment = 0; segment < segments; segment++) {
    const start = header.getUint32(4 + 4 * segment, true);
    const end = segment + 1 < segments ? header.getUint32(8 + 4 * segment, true) : frame.length;
    const place = wide ? 1 - segment : segment;
    unpack(frame.subarray(start, end), pixels, (i, value) => (result[i * segments + place] = value));
  }
  return result;
}

function unpack(packed, count, put) {
  let at = 0;
  let done = 0;
  while (done < count) {
    if (at + 1 >= packed.length) throw new Refused("DICOM is truncated");
    const control = packed[at++];
    if (control < 128) {
      if (at + control >= packed.length) throw new Refused("DICOM is truncated");
      for (let i = 0; i <= control && done < count; i++) put(done++, packed[at + i]);
      at += control + 1;
    } else if (control > 128) {
      for (let i = 0; i <= 256 - control && done < count; i++) put(done++, packed[at]);
      at += 1;
    }
  }
}
