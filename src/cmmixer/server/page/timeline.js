// The timeline of a long query: a strip of segments, each with what matches it. One of them is in the tab order.

import { byId, element, formatTime } from "./dom.js";

const SHADES = 4;

export class Timeline {
  /** `play` is called with a segment, which has all fields of a hit that playing needs. */
  constructor(play) {
    this.play = play;
    this.buttons = [];
    this.strip = byId("timeline");
    this.caption = byId("timeline-caption");
    this.strip.addEventListener("keydown", (event) => this.#onKey(event));
    this.strip.addEventListener("focusin", (event) => this.#setCurrent(event.target));
    this.strip.addEventListener("mouseover", (event) => this.#describe(event.target));
    this.strip.addEventListener("mouseleave", () => this.#describe(this.strip.querySelector(":focus, .loaded")));
  }

  /** Shows the segments of a query that lasts so many seconds; null hides the strip. */
  show(segments, seconds, target) {
    const shades = new Map();
    this.buttons = (segments ?? []).map((segment) => {
      const { item, moment, query_moment: queryMoment } = segment;
      if (!shades.has(item.id)) shades.set(item.id, shades.size % SHADES);
      const text = `${formatTime(queryMoment.start_seconds)} – ${formatTime(queryMoment.end_seconds)}: ${item.title} at ${formatTime(moment.start_seconds)}`;
      const button = element("button", { type: "button", class: `segment shade-${shades.get(item.id)}`, "aria-label": `${text}. Play.`, tabindex: "-1", onclick: () => this.play(segment) });
      button.style.left = `${(100 * queryMoment.start_seconds) / seconds}%`;
      button.style.width = `${(100 * (queryMoment.end_seconds - queryMoment.start_seconds)) / seconds}%`;
      return Object.assign(button, { segment, text });
    });
    this.strip.dataset.modality = target === "audio" ? "audio" : "video";
    this.strip.replaceChildren(...this.buttons);
    if (this.buttons.length) this.buttons[0].tabIndex = 0;
    this.strip.hidden = this.caption.hidden = !this.buttons.length;
    this.#describe(null);
  }

  /** Marks the segment that is in the player. */
  markLoaded(segment) {
    for (const button of this.buttons) button.classList.toggle("loaded", button.segment === segment);
  }

  #describe(button) {
    this.caption.textContent = button?.text ?? "Matches over time";
  }

  #setCurrent(current) {
    for (const button of this.buttons) button.tabIndex = button === current ? 0 : -1;
    this.#describe(current);
  }

  #onKey(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation(); // elsewhere the arrow keys move through the results
    this.buttons[this.buttons.indexOf(event.target) + step]?.focus();
  }
}
