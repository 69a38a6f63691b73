/** The exported model in ONNX Runtime: a frame in, an answer out. */

import * as ort from "./vendor/ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // more need an isolated page, and small models gain little
ort.env.logLevel = "fatal"; // errors become exceptions

export class Model {
  #session;
  #card;

  /** Fetch the model of a card (model.json), and refuse it if it is not the one that the card describes. */
  static async open(card) {
    const response = await fetch(card.file);
    if (!response.ok) throw new Error(`${card.file} is missing; run make web`);
    const bytes = await response.arrayBuffer();
    if ((await sha256(bytes)) !== card.sha256) throw new Error(`${card.file} is damaged; run make web`);
    const model = new Model();
    model.#card = card;
    model.#session = await ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] });
    return model;
  }

  /**
   * @param {Uint8Array} frame (channels, size, size)
   * @returns {Promise<{probabilities: number[], maps: ?{data: Float32Array, height: number, width: number},
   *   unlike: ?number}>} in the order of the labels, as `medistill predict` gives them; maps (labels, height, width), at
   *   least 0; `unlike` is 1 where an image is as far from the training images as it may be. Null where the model gives
   *   none.
   */
  async answer(frame) {
    const { size, channels, labels, task, slopes, intercepts } = this.#card;
    const image = new ort.Tensor("uint8", frame, [1, channels, size, size]);
    const outputs = await this.#session.run({ image });
    const logits = Array.from(outputs.logits.data);
    const maps = mapsOf(outputs.saliency_map, labels.length);
    const unlike = outputs.unlike ? Number(outputs.unlike.data[0]) : null;
    for (const output of Object.values(outputs)) output.dispose();
    if (logits.length !== labels.length) throw new Error(`${logits.length} logits for ${labels.length} labels`);
    const wrong = logits.findIndex((logit) => !Number.isFinite(logit));
    if (wrong >= 0) throw new Error(`the model's logit for ${labels[wrong]} is ${logits[wrong]}`);
    const calibrated = logits.map((logit, i) => slopes[i] * logit + intercepts[i]);
    return { probabilities: task === "multiclass" ? softmax(calibrated) : calibrated.map(sigmoid), maps, unlike };
  }
}

/** A copy of the maps of one image, which outlives the output. */
function mapsOf(output, labels) {
  if (!output || output.dims.length !== 4 || output.dims[1] !== labels) return null;
  const data = Float32Array.from(output.data);
  if (!data.every(Number.isFinite)) throw new Error("the model's heat map is not finite");
  return { data, height: output.dims[2], width: output.dims[3] };
}

function sigmoid(logit) {
  const small = Math.exp(-Math.abs(logit)); // of a negative number only, so that nothing overflows
  return (logit >= 0 ? 1 : small) / (1 + small);
}

function softmax(logits) {
  const highest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - highest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

async function sha256(bytes) {
  if (!crypto.subtle) throw new Error("open this page over https, or from 127.0.0.1");
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
