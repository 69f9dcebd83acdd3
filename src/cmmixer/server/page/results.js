// Search results: sounds as a list with waveforms, pictures as a grid of thumbnails. The keys act on the current result.

import { downloadAddress, itemPeaks, thumbnailAddress } from "./api.js";
import { element, formatTime, icon } from "./dom.js";
import { drawWhenVisible } from "./waveform.js";

const PLAY_ICON = "M6 3.6v12.8L16.6 10z";
const SIMILAR_ICON = "M2.5 8c2.5-3.400 5-3.400 7.5 0s5 3.400 7.5 0M2.5 13c2.5-3.400 5-3.400 7.5 0s5 3.400 7.5 0";
const SHORTLIST_ICON = "M5.5 3.500h9v13l-4.5-3.600-4.5 3.600z";
const DOWNLOAD_ICON = "M10 3v9.500M6 9l4 4 4-4M4 16.500h12";

/** A thumbnail: a frame of a video, or the waveform of a sound. */
export function thumbnail(item, seconds) {
  if (item.kind === "audio") {
    const canvas = element("canvas", { "aria-hidden": "true" });
    drawWhenVisible(canvas, () => itemPeaks(item.id, undefined, undefined, 80));
    return element("span", { class: "thumb of-audio" }, canvas);
  }
  const image = element("img", { src: thumbnailAddress(item.id, seconds), alt: "", loading: "lazy", decoding: "async" });
  image.addEventListener("error", () => image.remove());
  return element("span", { class: "thumb" }, image);
}

function toolButtons(hit, target, actions) {
  const modality = target === "audio" ? "audio" : "video";
  const shortlist = element("button", { type: "button", class: "tool square shortlist", "aria-label": `Add ${hit.item.title} to the shortlist`, title: "Add to the shortlist (K)", "aria-pressed": String(actions.isShortlisted(hit)), tabindex: "-1" }, icon(SHORTLIST_ICON));
  shortlist.addEventListener("click", () => shortlist.setAttribute("aria-pressed", String(actions.toggleShortlist(hit))));
  return element("div", { class: "hit-tools" },
    element("button", { type: "button", class: "tool square similar", "aria-label": `More like ${hit.item.title}`, title: "More like this (M)", tabindex: "-1", onclick: () => actions.findSimilar(hit) }, icon(SIMILAR_ICON)),
    shortlist,
    element("a", { class: "tool square download", href: downloadAddress(hit.item.id, modality), download: true, "aria-label": `Download ${hit.item.title}`, title: "Download (D)", tabindex: "-1" }, icon(DOWNLOAD_ICON)),
  );
}

function scoreBar(hit, maxScore) {
  const fill = element("i");
  fill.style.transform = `scaleX(${Math.max(0.02, hit.score / maxScore)})`;
  return element("span", { class: "score" }, element("span", { "aria-hidden": "true" }, hit.score.toFixed(2)), element("span", { class: "score-bar", "aria-hidden": "true" }, fill));
}

function description({ item, moment }) {
  const facts = [`${formatTime(moment.start_seconds)} – ${formatTime(moment.end_seconds)}`, item.label, item.folder_name].filter(Boolean);
  return element("span", { class: "hit-words" },
    element("span", { class: "hit-title", title: item.name }, item.title),
    element("span", { class: "hit-facts" }, facts.join(" · "), item.missing ? element("span", { class: "missing" }, " · file is missing") : null),
  );
}

/** The list item of a hit. `maxScore` fills the score bar. `actions`: play, findSimilar, toggleShortlist, isShortlisted. */
function listItem(hit, target, maxScore, actions) {
  const { item, moment } = hit;
  const rank = element("span", { class: "hit-rank", "aria-hidden": "true" }, element("span", {}, String(hit.rank)), icon(PLAY_ICON, true));
  const label = [`${hit.rank}`, item.title, item.label, `at ${formatTime(moment.start_seconds)}`, `score ${hit.score.toFixed(2)}`, item.missing ? "file is missing" : null].filter(Boolean).join(", ");
  const play = element("button", { type: "button", class: "hit-play", tabindex: "-1", "aria-label": `${label}. Play.`, onclick: () => actions.play(hit) });
  if (target === "audio") {
    const canvas = element("canvas", { "aria-hidden": "true" });
    drawWhenVisible(canvas, () => itemPeaks(item.id, moment.start_seconds, moment.end_seconds));
    play.append(rank, description(hit), canvas, scoreBar(hit, maxScore));
  } else {
    const preview = thumbnail(item, (moment.start_seconds + moment.end_seconds) / 2);
    preview.append(element("span", { class: "chip" }, formatTime(moment.start_seconds)), rank);
    play.append(preview, description(hit), scoreBar(hit, maxScore));
  }
  const row = element("li", { class: "hit", "data-item": item.id }, play, toolButtons(hit, target, actions));
  row.hit = hit;
  return row;
}

export class Results {
  constructor(list, actions) {
    this.list = list;
    this.actions = actions;
    this.target = "audio";
    this.maxScore = 1;
    list.addEventListener("focusin", (event) => this.#setCurrent(event.target.closest(".hit")));
  }

  get rows() { return [...this.list.querySelectorAll(".hit")]; }
  get current() { return this.list.querySelector(".hit.current"); }

  /** Shows a page of hits, in place of the shown ones or after them. */
  show(page, target, { append = false } = {}) {
    this.target = target;
    this.list.classList.toggle("as-list", target === "audio");
    this.list.classList.toggle("as-grid", target !== "audio");
    // After re-ranking, scores exceed 1 where the timing matches too.
    if (!append) this.maxScore = Math.max(1, ...page.hits.map((hit) => hit.score));
    const added = page.hits.map((hit) => listItem(hit, target, this.maxScore, this.actions));
    if (append) this.list.append(...added);
    else this.list.replaceChildren(...added);
    if (!append && added.length) this.#setCurrent(added[0]);
    if (!this.rows.length) this.list.append(element("li", { class: "nothing" }, "Nothing in the library matches these filters."));
  }

  /** Marks the hit that is in the player. */
  markLoaded(hit) {
    for (const row of this.rows) row.classList.toggle("loaded", row.hit === hit);
  }

  /** Moves the focus to the next result in a direction, in a list or in a grid as it is laid out on the screen. */
  move(direction) {
    const { rows } = this;
    if (!rows.length) return;
    const here = rows.indexOf(this.current);
    if (here < 0) { rows[0].querySelector(".hit-play").focus(); return; }
    let step = direction === "left" || direction === "up" ? -1 : 1;
    if (this.target !== "audio" && (direction === "up" || direction === "down")) {
      const secondLine = rows.findIndex((row) => row.offsetTop > rows[0].offsetTop);
      step *= secondLine === -1 ? rows.length : secondLine;
    }
    const next = rows[here + step];
    if (!next) return;
    next.querySelector(".hit-play").focus();
    next.scrollIntoView({ block: "nearest" });
  }

  /** Makes a result the current one, the only one in the tab order. */
  #setCurrent(current) {
    if (!current) return;
    for (const row of this.rows) {
      row.classList.toggle("current", row === current);
      for (const control of row.querySelectorAll("button, a")) control.tabIndex = row === current ? 0 : -1;
    }
  }
}
