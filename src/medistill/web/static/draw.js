/** Pictures on canvases. */

/** Draw a frame, uint8 (channels, size, size), as the model sees it. */
export function drawFrame(canvas, frame, { size, channels }) {
  const image = new ImageData(size, size);
  const plane = size * size;
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = frame[(channels === 1 ? 0 : c) * plane + i];
    image.data[4 * i + 3] = 255;
  }
  canvas.width = canvas.height = size;
  canvas.getContext("2d").putImageData(image, 0, 0);
}
