/** Rounding as Python and NumPy do: halves go to the even number. */
export function roundHalfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/**
 * Numbers of any range as greys: the lowest becomes 0, the highest 255.
 * @param {ArrayLike<number>} values
 * @returns {Uint8Array} as long as `values`
 */
export function stretched(values) {
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < values.length; i++) {
    if (values[i] < low) low = values[i];
    if (values[i] > high) high = values[i];
  }
  const scaled = new Uint8Array(values.length);
  if (high > low) {
    const factor = 255 / (high - low);
    for (let i = 0; i < values.length; i++) scaled[i] = roundHalfEven((values[i] - low) * factor);
  }
  return scaled;
}
