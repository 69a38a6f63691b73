/** The answer of one image: picture, bars against thresholds, timing. */

import { drawFrame } from "./draw.js";
import { drawHeat, peakOf } from "./heat.js";

const element = (id) => document.getElementById(id);

export class AnswerPane {
  #card;
  #answer = null;

  constructor(card) {
    this.#card = card;
    for (const [i, point] of card.points.entries()) element("point").add(new Option(point.name, i));
    element("point-choice").hidden = card.points.length === 0;
    element("point").addEventListener("change", () => this.#showCalls());
    element("heat-label").addEventListener("change", () => this.#showHeat());
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
    this.#showUnlike();
    this.#showCalls();
  }

  #showUnlike() {
    const { unlike } = this.#answer;
    const isUnlike = unlike !== null && unlike > 1;
    element("answer").classList.toggle("dimmed", isUnlike);
    element("warning").hidden = !isUnlike;
    element("warning").textContent = isUnlike
      ? `This image is unlike those that the model was trained on: its score is ${unlike.toFixed(1)}, the limit 1. ` +
        "What is said of it below may mean nothing."
      : "";
  }

  #showCalls() {
    if (this.#answer === null) return;
    this.#showBars();
    this.#offerHeat();
    const called = this.called(this.#answer.probabilities).join(", ") || "nothing called";
    element("summary").textContent = `${element("shown").textContent}: ${called}`;
  }

  /** All labels, those called first; the first of these is shown, and nothing where nothing is called. */
  #offerHeat() {
    const { maps, probabilities } = this.#answer;
    element("heat-choice").hidden = maps === null;
    const called = new Set(this.called(probabilities));
    const { labels } = this.#card;
    const order = byProbability(probabilities);
    const groups = [order.filter((i) => called.has(labels[i])), order.filter((i) => !called.has(labels[i]))];
    element("heat-label").replaceChildren(
      new Option("nothing", ""),
      ...groups.flat().map((i) => new Option(called.has(labels[i]) ? labels[i] : `${labels[i]} (not called)`, i)),
    );
    element("heat-label").value = groups[0][0] ?? "";
    this.#showHeat();
  }

  #showHeat() {
    if (this.#answer === null) return;
    const { maps, probabilities } = this.#answer;
    const { labels, size } = this.#card;
    const chosen = element("heat-label").value;
    element("heat").hidden = maps === null || chosen === "";
    element("heat-legend").textContent = "";
    if (element("heat").hidden) return;
    const label = Number(chosen);
    const isCalled = this.called(probabilities).includes(labels[label]);
    const peak = peakOf(maps, label);
    const top = this.#card.scale[label];
    drawHeat(element("heat"), maps, label, top, isCalled, size);
    element("heat-legend").textContent = heatLegend(labels[label], isCalled, peak, top);
  }

  #threshold(i) {
    return this.#card.points[element("point").value]?.thresholds[i] ?? null;
  }

  #calls(i, probability) {
    const threshold = this.#threshold(i);
    return threshold !== null && probability >= threshold;
  }

  #showBars() {
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

function heatLegend(label, isCalled, peak, top) {
  if (peak <= 0 || top <= 0) return `No place speaks for ${label}.`;
  const share = `${Math.round((100 * peak) / top)} % of the strongest evidence for it in the model's validation images`;
  return isCalled
    ? `Violet to yellow: evidence for ${label}; its peak has ${share}.`
    : `Blue, as ${label} is not called: what speaks for it; its peak has ${share}.`;
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
  const head = made("th", "");
  head.scope = "row";
  for (const part of label.split(/(?<=_)/)) head.append(part, document.createElement("wbr")); // where it may break
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
