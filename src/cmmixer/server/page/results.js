// What was found, as cards: sounds with their waveform in a list, pictures in a grid; one of them is current for the keys.

import { itemPeaks, mediaOf } from "./api.js";
import { clock, icon, make } from "./dom.js";
import { lazily } from "./waveform.js";

const PLAY = "M6 3.6v12.8L16.6 10z";
const ALIKE = "M2.500 8c2.500-3.400 5-3.400 7.500 0s5 3.400 7.500 0M2.500 13c2.500-3.400 5-3.400 7.500 0s5 3.400 7.500 0";
const KEEP = "M5.500 3.500h9v13l-4.500-3.600-4.500 3.600z";
const DOWN = "M10 3v9.500M6 9l4 4 4-4M4 16.500h12";

/** A picture of a film, or the waveform of a sound. */
export function thumb(item, seconds) {
  if (item.kind === "sound") {
    const canvas = make("canvas", { "aria-hidden": "true" });
    lazily(canvas, () => itemPeaks(item.id, undefined, undefined, 80));
    return make("span", { class: "thumb of-sound" }, canvas);
  }
  const picture = make("img", { src: mediaOf.thumbnail(item.id, seconds), alt: "", loading: "lazy", decoding: "async" });
  picture.addEventListener("error", () => picture.remove());
  return make("span", { class: "thumb" }, picture);
}

function tools(hit, target, actions) {
  const sense = target === "audio" ? "audio" : "video";
  const keep = make("button", { type: "button", class: "tool square keep", "aria-label": `Keep ${hit.item.title}`, title: "Keep (K)", "aria-pressed": String(actions.isKept(hit)), tabindex: "-1" }, icon(KEEP));
  keep.addEventListener("click", () => keep.setAttribute("aria-pressed", String(actions.keep(hit))));
  return make("div", { class: "hit-tools" },
    make("button", { type: "button", class: "tool square alike", "aria-label": `More like ${hit.item.title}`, title: "More like this (M)", tabindex: "-1", onclick: () => actions.alike(hit) }, icon(ALIKE)),
    keep,
    make("a", { class: "tool square download", href: mediaOf.download(hit.item.id, sense), download: true, "aria-label": `Download ${hit.item.title}`, title: "Download (D)", tabindex: "-1" }, icon(DOWN)),
  );
}

function score(hit, full) {
  const fill = make("i");
  fill.style.transform = `scaleX(${Math.max(0.02, hit.score / full)})`;
  return make("span", { class: "score" }, make("span", { "aria-hidden": "true" }, hit.score.toFixed(2)), make("span", { class: "score-bar", "aria-hidden": "true" }, fill));
}

function words(hit) {
  const { item, moment } = hit;
  const facts = [`${clock(moment.start_seconds)} – ${clock(moment.end_seconds)}`, item.label, item.folder_name].filter(Boolean);
  return make("span", { class: "hit-words" },
    make("span", { class: "hit-title", title: item.name }, item.title),
    make("span", { class: "hit-facts" }, facts.join(" · "), item.missing ? make("span", { class: "gone" }, " · the file has gone") : null),
  );
}

/** The list item of a hit. `full`: the score of a whole bar. `actions`: play, alike, keep, isKept. */
function card(hit, target, full, actions) {
  const { item, moment } = hit;
  const rank = make("span", { class: "hit-rank", "aria-hidden": "true" }, make("span", {}, String(hit.rank)), icon(PLAY, true));
  const told = [`${hit.rank}`, item.title, item.label, `at ${clock(moment.start_seconds)}`, `score ${hit.score.toFixed(2)}`, item.missing ? "the file has gone" : null];
  const play = make("button", { type: "button", class: "hit-play", tabindex: "-1", "aria-label": `${told.filter(Boolean).join(", ")}. Play.`, onclick: () => actions.play(hit) });
  if (target === "audio") {
    const canvas = make("canvas", { "aria-hidden": "true" });
    lazily(canvas, () => itemPeaks(item.id, moment.start_seconds, moment.end_seconds));
    play.append(rank, words(hit), canvas, score(hit, full));
  } else {
    const shown = thumb(item, (moment.start_seconds + moment.end_seconds) / 2);
    shown.append(make("span", { class: "chip" }, clock(moment.start_seconds)), rank);
    play.append(shown, words(hit), score(hit, full));
  }
  const row = make("li", { class: "hit", "data-item": item.id }, play, tools(hit, target, actions));
  row.hit = hit;
  return row;
}

export class Results {
  constructor(list, actions) {
    this.list = list;
    this.actions = actions;
    this.target = "audio";
    this.full = 1;
    list.addEventListener("focusin", (event) => this.#current(event.target.closest(".hit")));
  }

  get cards() { return [...this.list.querySelectorAll(".hit")]; }
  get current() { return this.list.querySelector(".hit.current"); }

  /** Shows the hits of a page, in place of the others or after them. */
  show(page, target, { more = false } = {}) {
    this.target = target;
    this.list.classList.toggle("sounds", target === "audio");
    this.list.classList.toggle("pictures", target !== "audio");
    // A hit whose timing fits too scores above 1.
    if (!more) this.full = Math.max(1, ...page.hits.map((hit) => hit.score));
    const made = page.hits.map((hit) => card(hit, target, this.full, this.actions));
    if (more) this.list.append(...made);
    else this.list.replaceChildren(...made);
    if (!more && made.length) this.#current(made[0]);
    if (!this.cards.length) this.list.append(make("li", { class: "nothing" }, "Nothing in the library fits these filters."));
  }

  /** Marks the hit that is laid on the stage. */
  loaded(hit) {
    for (const row of this.cards) row.classList.toggle("loaded", row.hit === hit);
  }

  /** The keys: goes to the next card in a direction, in a list or in a grid as it stands on the screen. */
  go(direction) {
    const { cards } = this;
    if (!cards.length) return;
    const here = cards.indexOf(this.current);
    if (here < 0) { cards[0].querySelector(".hit-play").focus(); return; }
    let step = direction === "left" || direction === "up" ? -1 : 1;
    if (this.target !== "audio" && (direction === "up" || direction === "down")) {
      const top = cards[0].offsetTop;
      step *= Math.max(1, cards.findIndex((row) => row.offsetTop > top) === -1 ? cards.length : cards.findIndex((row) => row.offsetTop > top));
    }
    const there = cards[here + step];
    if (!there) return;
    there.querySelector(".hit-play").focus();
    there.scrollIntoView({ block: "nearest" });
  }

  /** Only the current card is in the tab order. */
  #current(row) {
    if (!row) return;
    for (const one of this.list.querySelectorAll(".hit")) {
      const is = one === row;
      one.classList.toggle("current", is);
      for (const button of one.querySelectorAll("button, a")) button.tabIndex = is ? 0 : -1;
    }
  }
}
