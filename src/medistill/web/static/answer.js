/** The answer of one image: picture, bars against thresholds, timing. */

import { drawFrame } from "./draw.js";

const element = (id) => document.getElementById(id);

export class AnswerPane {
  #card;
  #answer = null;

  constructor(card) {
    this.#card = card;
    for (const [i, point] of card.points.entries()) element("point").add(new Option(point.name, i));
    element("point-choice").hidden = card.points.length === 0;
    element("point").addEventListener("change", () => this.#showBars());
  }

  /**
   * The labels that an answer calls at the chosen operating point, the most probable first; of exclusive classes
   * without one the most probable.
   */
  called(probabilities) {
    const { labels, points } = this.#card;
    const order = byProbability(probabilities);
    const called = points.length ? order.filter((i) => this.#calls(i, probabilities[i])) : this.#first(order);
    return called.map((i) => labels[i]);
  }

  #first(order) {
    return this.#card.task === "multiclass" ? order.slice(0, 1) : [];
  }

  onPoint(listener) {
    element("point").addEventListener("change", listener);
  }

  hide() {
    this.#answer = null;
    element("answer").hidden = true;
  }

  show(name, answer) {
    this.#answer = answer;
    element("answer").hidden = false;
    element("shown").textContent = name;
    element("picture").setAttribute("aria-label", `${name}, as the model sees it`);
    drawFrame(element("picture"), answer.frame, this.#card);
    const { reading, model } = answer.milliseconds;
    element("caption").textContent =
      `As the model sees it, ${this.#card.size}x${this.#card.size} px. Reading ${ms(reading)}, model ${ms(model)}.`;
    this.#showBars();
  }

  #threshold(i) {
    return this.#card.points[element("point").value]?.thresholds[i] ?? null;
  }

  #calls(i, probability) {
    const threshold = this.#threshold(i);
    return threshold !== null && probability >= threshold;
  }

  #showBars() {
    if (this.#answer === null) return;
    const { labels, points } = this.#card;
    const { probabilities } = this.#answer;
    const called = new Set(this.called(probabilities));
    element("bars").replaceChildren(
      ...byProbability(probabilities).map((i) => bar(labels[i], probabilities[i], this.#threshold(i), called.has(labels[i]))),
    );
    element("legend").textContent = points.length
      ? `Coloured and bold: called, at or above its threshold, the dark line. In the mean over patients like those of ` +
        `validation, ${points[element("point").value].name}.`
      : "";
  }
}

/** Places of the labels, the most probable first. */
function byProbability(probabilities) {
  return probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a]);
}

function ms(duration) {
  return `${duration < 10 ? duration.toFixed(1) : Math.round(duration)} ms`;
}

function bar(label, probability, threshold, isCalled) {
  const row = document.createElement("tr");
  row.className = isCalled ? "called" : "";
  const head = made("th", label);
  head.scope = "row";
  const place = document.createElement("td");
  const frame = made("div", "", "bar");
  const part = made("div", "", "part");
  part.style.width = `${100 * probability}%`;
  frame.append(part);
  if (threshold !== null && threshold <= 1) {
    const line = made("div", "", "at");
    line.style.left = `${100 * threshold}%`;
    frame.append(line);
  }
  const words = threshold === null ? "no threshold" : `threshold ${threshold.toFixed(3)}`;
  frame.title = words;
  place.append(frame, made("span", `${isCalled ? "called, " : ""}${words}`, "hidden"));
  const number = made("td", "", "number");
  const value = made("data", probability.toFixed(3));
  value.value = String(probability);
  number.append(value);
  row.append(head, place, number);
  return row;
}

function made(tag, text, className = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  node.className = className;
  return node;
}
