// Which stretch of a long query goes with what: a strip of stretches in the query's time; one of them is in the tab order.

import { clock, find, make } from "./dom.js";

const SHADES = 4;

export class Timeline {
  /** `play` is called with a stretch, which has all of a hit that playing needs. */
  constructor(play) {
    this.play = play;
    this.strip = find("timeline");
    this.told = find("timeline-told");
    this.strip.addEventListener("keydown", (event) => this.#key(event));
    this.strip.addEventListener("focusin", (event) => this.#current(event.target));
    this.strip.addEventListener("mouseover", (event) => this.#tell(event.target));
    this.strip.addEventListener("mouseleave", () => this.#tell(this.strip.querySelector(":focus, .loaded")));
  }

  /** Shows stretches of a query so many seconds long, or nothing. */
  show(stretches, seconds, target) {
    const shades = new Map();
    this.buttons = (stretches ?? []).map((stretch) => {
      const { item, moment, query_moment: mine } = stretch;
      if (!shades.has(item.id)) shades.set(item.id, shades.size % SHADES);
      const words = `${clock(mine.start_seconds)} – ${clock(mine.end_seconds)}: ${item.title} at ${clock(moment.start_seconds)}`;
      const button = make("button", { type: "button", class: `stretch shade-${shades.get(item.id)}`, "aria-label": `${words}. Play.`, tabindex: "-1", onclick: () => this.play(stretch) });
      button.style.left = `${(100 * mine.start_seconds) / seconds}%`;
      button.style.width = `${(100 * (mine.end_seconds - mine.start_seconds)) / seconds}%`;
      return Object.assign(button, { stretch, words });
    });
    this.strip.dataset.sense = target === "audio" ? "sound" : "picture";
    this.strip.replaceChildren(...this.buttons);
    if (this.buttons.length) this.buttons[0].tabIndex = 0;
    this.strip.hidden = this.told.hidden = !this.buttons.length;
    this.#tell(null);
  }

  /** Marks the stretch that is laid on the stage. */
  loaded(stretch) {
    for (const button of this.buttons ?? []) button.classList.toggle("loaded", button.stretch === stretch);
  }

  #tell(button) {
    this.told.textContent = button?.words ?? "Which part goes with what";
  }

  #current(button) {
    for (const one of this.buttons) one.tabIndex = one === button ? 0 : -1;
    this.#tell(button);
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation(); // the page's own arrows go through the finds
    this.buttons[this.buttons.indexOf(event.target) + step]?.focus();
  }
}
