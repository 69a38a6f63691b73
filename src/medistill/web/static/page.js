/** The page: takes files, shows how far it is, and which image is looked at. */

import { AnswerPane } from "./answer.js";
import { Queue } from "./queue.js";

const element = (id) => document.getElementById(id);

const answers = []; // of each line of the list; an answer with `error` has no picture
const count = { asked: 0, done: 0, failed: 0 };
let queue;
let pane;

async function start() {
  watchOffline();
  const response = await fetch("model.json");
  if (!response.ok) throw new Error("model.json is missing; run make web");
  const card = await response.json();
  document.title = element("name").textContent = card.name;
  element("card").textContent = describe(card);
  pane = new AnswerPane(card);
  pane.onPoint(showCalls);
  queue = new Queue(card, onAnswer);
  await queue.open();
  element("files").disabled = false;
  element("status").textContent = "Ready.";
}

function describe({ labels, data, auroc }) {
  const known = [`${labels.length} labels`];
  if (data.length) known.push(`trained on ${data.join(", ")}`);
  if (auroc) known.push(`AUROC ${auroc.mean.toFixed(3)} on its own test images, in the mean of ${auroc.labels} labels`);
  return known.join(" · ");
}

function add(files) {
  if (files.length === 0 || element("files").disabled) return;
  count.asked += files.length;
  element("panes").hidden = element("clear").hidden = false;
  showProgress();
  queue.add(files);
}

function onAnswer(file, answer) {
  count.done += 1;
  if (answer.error) count.failed += 1;
  answers.push({ name: file.name, ...answer });
  element("images").append(answer.error ? failed(file.name, answer.error) : line(answers.length - 1));
  const shown = element("images").querySelector("input:checked");
  if (!answer.error && !shown) element("images").lastChild.querySelector("input").click();
  showProgress();
}

function line(index) {
  const { name } = answers[index];
  const item = document.createElement("li");
  const label = document.createElement("label");
  const choice = document.createElement("input");
  Object.assign(choice, { type: "radio", name: "image", value: index });
  choice.addEventListener("change", () => pane.show(name, answers[index]));
  const calls = document.createElement("small");
  calls.textContent = calledIn(answers[index]);
  label.append(choice, name, calls);
  item.append(label);
  return item;
}

function calledIn({ probabilities, unlike }) {
  if (unlike !== null && unlike > 1) return "unlike the training images";
  const called = pane.called(probabilities);
  return called.length > 1 ? `${called.length}: ${called.join(", ")}` : (called[0] ?? "nothing called");
}

function failed(name, error) {
  const item = document.createElement("li");
  item.className = "failed";
  const why = document.createElement("small");
  why.textContent = error;
  item.append(name, why);
  return item;
}

function showCalls() {
  for (const choice of element("images").querySelectorAll("input")) {
    choice.parentElement.querySelector("small").textContent = calledIn(answers[choice.value]);
  }
}

function showProgress() {
  const { asked, done, failed: bad } = count;
  const isDone = done === asked;
  element("progress").hidden = isDone;
  element("progress").max = asked;
  element("progress").value = done;
  const words = bad ? `, ${bad} not read` : "";
  element("status").textContent = isDone ? `${done} of ${asked} done${words}.` : `${done} of ${asked}${words} …`;
}

function clear() {
  queue.clear();
  answers.length = 0;
  Object.assign(count, { asked: 0, done: 0, failed: 0 });
  element("images").replaceChildren();
  pane.hide();
  element("panes").hidden = element("clear").hidden = element("progress").hidden = true;
  element("status").textContent = "Ready.";
  element("files").focus();
}

function watchDrops() {
  const over = (isOver) => element("drop").classList.toggle("over", isOver);
  addEventListener("dragover", (event) => {
    event.preventDefault();
    over(true);
  });
  addEventListener("dragleave", (event) => over(event.relatedTarget !== null));
  addEventListener("drop", (event) => {
    event.preventDefault(); // or the browser would open the file in place of this page
    over(false);
    add(Array.from(event.dataTransfer.files));
  });
}

function watchOffline() {
  navigator.serviceWorker?.register("offline.js").catch(() => {}); // without it the page just needs its server
}

element("files").addEventListener("change", () => {
  add(Array.from(element("files").files));
  element("files").value = ""; // the same file can be chosen again
});
element("clear").addEventListener("click", clear);
watchDrops();
start().catch((error) => {
  element("status").textContent = `The model cannot be opened: ${error.message}`;
  element("status").className = "warning";
});
