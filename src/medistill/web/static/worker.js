/** Beside the page, which so stays at hand: opens the model, then answers one file after another. */

import { decode } from "./decode.js";
import { toFrame } from "./frame.js";
import { Model } from "./model.js";

let card;
let model;

self.onmessage = async ({ data }) => {
  try {
    self.postMessage(data.card ? await open(data.card) : await answer(data.file));
  } catch (error) {
    self.postMessage({ error: error.message || String(error) });
  }
};

async function open(given) {
  card = given;
  model = await Model.open(card);
  return { ready: true };
}

async function answer(file) {
  const start = performance.now();
  const frame = toFrame(await decode(file), card);
  const decoded = performance.now();
  const result = await model.answer(frame);
  return { ...result, frame, milliseconds: { reading: decoded - start, model: performance.now() - decoded } };
}
