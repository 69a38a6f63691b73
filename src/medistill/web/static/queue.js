/** One image after another through the worker, so that memory holds one of them at a time. */

export class Queue {
  #worker = null;
  #card;
  #waiting = [];
  #isBusy = false;
  #round = 0;
  #onAnswer;

  /**
   * @param {object} card the content of model.json
   * @param {(file: File, answer: object) => void} onAnswer called for each file, in order; `answer.error` says why
   *   there is none
   */
  constructor(card, onAnswer) {
    this.#card = card;
    this.#onAnswer = onAnswer;
  }

  /** Open the model; an Error says why it cannot be. */
  async open() {
    this.#worker = new Worker("worker.js", { type: "module" });
    const answer = await this.#ask({ card: this.#card });
    if (answer.error) throw new Error(answer.error);
  }

  add(files) {
    this.#waiting.push(...files);
    if (!this.#isBusy) this.#work();
  }

  /** Forget what waits, and the answer of the image at work. */
  clear() {
    this.#waiting = [];
    this.#round += 1;
  }

  async #work() {
    this.#isBusy = true;
    while (this.#waiting.length > 0) {
      const [file, round] = [this.#waiting.shift(), this.#round];
      const answer = await this.#ask({ file });
      if (round === this.#round) this.#onAnswer(file, answer);
    }
    this.#isBusy = false;
  }

  async #ask(message) {
    const answer = await new Promise((resolve) => {
      this.#worker.onmessage = ({ data }) => resolve(data);
      this.#worker.onerror = (event) => {
        event.preventDefault();
        resolve({ error: event.message || "the browser ended the model's work", isDead: true });
      };
      this.#worker.postMessage(message);
    });
    if (answer.isDead && message.file) {
      this.#worker.terminate();
      await this.open(); // the next file gets a worker of its own
    }
    return answer;
  }
}
