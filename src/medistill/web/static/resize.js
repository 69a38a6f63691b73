/**
 * Pillow's bilinear resize with `reducing_gap=3`, in its integers: pixels are those that the model was trained on.
 *
 * A picture is {width, height, channels, data}: uint8, rows from the top, the channels of a pixel side by side.
 */

const GAP = 3;
const BITS = 22; // of a weight behind the point: 32 less 8 of the pixel and 2 of room

/** The part `box` [left, top, right, bottom] of a picture, in whole pixels, at another size. */
export function resize(picture, box, width, height) {
  const factorX = Math.floor((box[2] - box[0]) / width / GAP) || 1;
  const factorY = Math.floor((box[3] - box[1]) / height / GAP) || 1;
  if (factorX > 1 || factorY > 1) {
    const safe = safeBox(picture, box, width, height);
    picture = reduce(picture, safe, factorX, factorY);
    box = [
      (box[0] - safe[0]) / factorX,
      (box[1] - safe[1]) / factorY,
      (box[2] - safe[0]) / factorX,
      (box[3] - safe[1]) / factorY,
    ];
  }
  const [left, top, right, bottom] = box.map(Math.fround); // Pillow hands the box on in single precision
  if (width !== picture.width || left !== 0 || right !== width) picture = acrossRows(picture, left, right, width);
  if (height !== picture.height || top !== 0 || bottom !== height) picture = downColumns(picture, top, bottom, height);
  return picture;
}

/** The box with what the filter reads beside it. */
function safeBox(picture, box, width, height) {
  const besideX = (0.5 * (box[2] - box[0])) / width;
  const besideY = (0.5 * (box[3] - box[1])) / height;
  return [
    Math.max(0, Math.trunc(box[0] - besideX)),
    Math.max(0, Math.trunc(box[1] - besideY)),
    Math.min(picture.width, Math.ceil(box[2] + besideX)),
    Math.min(picture.height, Math.ceil(box[3] + besideY)),
  ];
}

/** Means of blocks of `factorX` times `factorY` pixels; blocks at the end have the pixels that are left. */
function reduce({ width, channels, data }, [left, top, right, bottom], factorX, factorY) {
  const columns = Math.ceil((right - left) / factorX);
  const rows = Math.ceil((bottom - top) / factorY);
  const means = new Uint8Array(columns * rows * channels);
  const sums = new Float64Array(columns * channels);
  for (let row = 0; row < rows; row++) {
    const first = top + row * factorY;
    const last = Math.min(first + factorY, bottom);
    sums.fill(0);
    for (let y = first; y < last; y++) {
      for (let column = 0, x = left; column < columns; column++) {
        const end = Math.min(x + factorX, right);
        for (; x < end; x++) {
          for (let c = 0; c < channels; c++) sums[column * channels + c] += data[(y * width + x) * channels + c];
        }
      }
    }
    for (let column = 0; column < columns; column++) {
      const count = (last - first) * Math.min(factorX, right - left - column * factorX);
      const multiplier = Math.floor(2 ** 32 / (256 * count));
      for (let c = 0; c < channels; c++) {
        const sum = sums[column * channels + c] + Math.floor(count / 2);
        means[(row * columns + column) * channels + c] = Math.floor((sum * multiplier) / 2 ** 24);
      }
    }
  }
  return { width: columns, height: rows, channels, data: means };
}

/** For each place of the output: the first pixel that it reads, and the weights from there on, as integers. */
function weights(size, from, to, length) {
  const scale = Math.fround(to - from) / length;
  const support = Math.max(scale, 1);
  return Array.from({ length }, (_, place) => {
    const centre = from + (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(size, Math.trunc(centre + support + 0.5));
    const shares = [];
    for (let x = first; x < last; x++) shares.push(Math.max(0, 1 - Math.abs((x - centre + 0.5) * (1 / support))));
    const total = shares.reduce((sum, share) => sum + share, 0);
    return { first, shares: shares.map((share) => Math.trunc(0.5 + (share / total) * 2 ** BITS)) };
  });
}

function clipped(sum) {
  return Math.min(255, Math.max(0, sum >> BITS));
}

function acrossRows({ width, height, channels, data }, left, right, columns) {
  const result = new Uint8Array(columns * height * channels);
  const of = weights(width, left, right, columns);
  for (let y = 0; y < height; y++) {
    for (let column = 0; column < columns; column++) {
      const { first, shares } = of[column];
      for (let c = 0; c < channels; c++) {
        let sum = 1 << (BITS - 1);
        for (let i = 0; i < shares.length; i++) sum += data[(y * width + first + i) * channels + c] * shares[i];
        result[(y * columns + column) * channels + c] = clipped(sum);
      }
    }
  }
  return { width: columns, height, channels, data: result };
}

function downColumns({ width, height, channels, data }, top, bottom, rows) {
  const length = width * channels;
  const result = new Uint8Array(length * rows);
  const of = weights(height, top, bottom, rows);
  for (let row = 0; row < rows; row++) {
    const { first, shares } = of[row];
    for (let x = 0; x < length; x++) {
      let sum = 1 << (BITS - 1);
      for (let i = 0; i < shares.length; i++) sum += data[(first + i) * length + x] * shares[i];
      result[row * length + x] = clipped(sum);
    }
  }
  return { width, height: rows, channels, data: result };
}
