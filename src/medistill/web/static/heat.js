/** The heat map of one label over the picture: on one scale for all images of a label, an absent label never red. */

/** Colours of matplotlib's inferno from 0.3 on, as the gallery of `explain` has them, and of a blue, from no evidence to the most. */
const CALLED = [
  [106, 23, 110],
  [143, 36, 105],
  [177, 50, 90],
  [210, 70, 68],
  [234, 99, 42],
  [248, 135, 14],
  [252, 178, 22],
  [244, 221, 79],
  [252, 255, 164],
];
const NOT_CALLED = [
  [54, 92, 141],
  [120, 190, 240],
];
const OPACITY = 0.75;

/** The largest value of a label's map. */
export function peakOf({ data, height, width }, label) {
  const cells = height * width;
  return data.subarray(label * cells, (label + 1) * cells).reduce((most, value) => Math.max(most, value), 0);
}

/**
 * Draw a label's map on a canvas of `size` pixels a side; without evidence it stays clear.
 * @param {HTMLCanvasElement} canvas
 * @param {{data: Float32Array, height: number, width: number}} maps (labels, height, width)
 * @param {number} label whose map is drawn
 * @param {number} top the value of the strongest colour: the label's own in the bundle (map_scale), the same for all images
 * @param {boolean} isCalled red where the label is called, else blue
 */
export function drawHeat(canvas, maps, label, top, isCalled, size) {
  canvas.width = canvas.height = size;
  const image = new ImageData(size, size);
  const colours = isCalled ? CALLED : NOT_CALLED;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const value = top > 0 ? Math.min(1, between(maps, label, (y + 0.5) / size, (x + 0.5) / size) / top) : 0;
      image.data.set([...blended(colours, value), Math.round(255 * OPACITY * Math.sqrt(value))], 4 * (y * size + x));
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The map between its cells, bilinear; `down` and `right` are shares of the picture. */
function between({ data, height, width }, label, down, right) {
  const [top, bottom, y] = neighbours(down * height - 0.5, height);
  const [left, other, x] = neighbours(right * width - 0.5, width);
  const at = (row, column) => data[(label * height + row) * width + column];
  const upper = at(top, left) * (1 - x) + at(top, other) * x;
  const lower = at(bottom, left) * (1 - x) + at(bottom, other) * x;
  return upper * (1 - y) + lower * y;
}

function neighbours(place, count) {
  const clipped = Math.min(count - 1, Math.max(0, place));
  const first = Math.floor(clipped);
  return [first, Math.min(count - 1, first + 1), clipped - first];
}

function blended(colours, value) {
  const place = value * (colours.length - 1);
  const first = Math.min(colours.length - 2, Math.floor(place));
  return colours[first].map((part, i) => Math.round(part + (colours[first + 1][i] - part) * (place - first)));
}
