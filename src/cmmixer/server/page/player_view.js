// The player's stage: the picture, two lanes that show how the sound lies under it, transport and levels.

import { ask, itemPeaks, mediaOf, queryPeaks } from "./api.js";
import { clock, find, length, make, save, toast } from "./dom.js";
import { Player } from "./player.js";
import { bars, colour, draw, ready } from "./waveform.js";

const NUDGE_SECONDS = 0.02;
// Converting shorter than this is not worth a word.
const SLOW_MS = 500;
// Of a longer file only the surroundings of the moment are drawn.
const LONGEST_DRAWN_SECONDS = 900;

const told = (source, sense) => `${sense} of ${source.query ?? source.item}`;

export class Stage {
  constructor() {
    this.root = find("stage");
    this.player = new Player(find("picture"), find("sound"));
    this.lanes = []; // [{ sense, peaks, from, to }] in the leader's time
    this.match = null; // { start, end } in the leader's time
    this.asked = null;
    this.player.addEventListener("change", () => this.#show());
    this.player.addEventListener("tick", () => this.#show());
    this.turn = 0;
    this.laid = false; // whether a find is on the stage
    this.refused = new Set(); // what this browser could not play as it is
    this.wanted = null; // what was asked to be loaded last, before it is known what this browser can play of it
    this.player.addEventListener("broken", (event) => this.#mend(event.detail.sense));
    find("play").addEventListener("click", () => this.player.toggle());
    find("take").addEventListener("click", () => this.#take());
    find("screen").addEventListener("click", () => this.player.toggle());
    find("to-match").addEventListener("click", () => this.player.toStart());
    find("loop").addEventListener("click", () => this.toggleLoop());
    find("seek").addEventListener("input", (event) => this.player.seek(Number(event.target.value)));
    find("earlier").addEventListener("click", () => this.player.shift(-NUDGE_SECONDS));
    find("later").addEventListener("click", () => this.player.shift(NUDGE_SECONDS));
    for (const level of ["found", "own"]) {
      find(`level-${level}`).addEventListener("input", (event) => this.player.setLevels({ [level]: Number(event.target.value) }));
    }
    new ResizeObserver(() => this.paint()).observe(find("lanes"));
    new ResizeObserver(() => this.paint()).observe(find("screen"));
  }

  toggleLoop() {
    this.player.loop = !this.player.loop;
    find("loop").setAttribute("aria-pressed", String(this.player.loop));
  }

  nudge(direction) { if (this.player.follower) this.player.shift(direction * NUDGE_SECONDS); }

  /** Shows what is searched with, by itself. `asked`: { kind, id, name, hasPicture, hasSound, duration, start }. */
  ask(asked) {
    this.asked = asked;
    this.laid = false;
    const own = { at: asked.start ?? 0, source: { [asked.kind]: asked.id } };
    const start = asked.start ?? 0;
    this.match = null;
    this.#load(asked.hasPicture ? { picture: own, sound: null, start } : { picture: null, sound: own, start });
    this.lanes = asked.hasSound ? [{ name: "yours", sense: asked.hasPicture ? "picture" : "sound", load: this.#peaksOfAsked(), from: 0, to: asked.duration }] : [];
    this.#drawLanes();
    find("now").replaceChildren(make("span", {}, asked.hasPicture ? "Choose a find to lay it under this picture." : "Choose a find to see it with this sound."));
  }

  /** Lays a hit and the query together, from where they match, and plays. */
  async lay(hit, target) {
    const { asked } = this;
    this.laid = true;
    const [moment, mine] = [hit.moment, hit.query_moment];
    const theirs = { at: moment.start_seconds, source: { item: hit.item.id } };
    const own = { at: mine.start_seconds, source: { [asked.kind]: asked.id } };
    const spanOf = (one) => ({ start: one.start_seconds, end: one.end_seconds });
    const hitLane = (sense) => this.#laneOfHit(hit, sense);
    const ownLane = (sense, from) => ({ name: "yours", sense, load: this.#peaksOfAsked(), from, to: from + asked.duration });
    let words, loaded;
    find("found-name").textContent = target === "audio" ? "Found sound" : "Your sound";
    if (target === "audio" && asked.hasPicture) {
      this.match = spanOf(mine);
      loaded = this.#load({ picture: own, sound: theirs, ...this.match });
      this.lanes = [asked.hasSound ? ownLane("picture", 0) : null, hitLane("sound")];
      this.lanes[1].from += mine.start_seconds - moment.start_seconds;
      this.lanes[1].to += mine.start_seconds - moment.start_seconds;
      words = ["under your picture from ", make("b", {}, clock(mine.start_seconds))];
    } else if (target === "video" && asked.hasSound) {
      this.match = spanOf(moment);
      loaded = this.#load({ picture: theirs, sound: own, ...this.match });
      this.lanes = [hitLane("picture"), ownLane("sound", moment.start_seconds - mine.start_seconds)];
      words = ["with your sound from ", make("b", {}, clock(mine.start_seconds))];
    } else {
      this.match = spanOf(moment);
      const alone = hit.item.kind === "film" && target !== "audio";
      loaded = this.#load(alone ? { picture: theirs, sound: null, ...this.match } : { picture: null, sound: theirs, ...this.match });
      this.lanes = [hitLane(alone ? "picture" : "sound")];
      words = ["by itself from ", make("b", {}, clock(moment.start_seconds))];
    }
    this.lanes = this.lanes.filter(Boolean);
    this.#drawLanes();
    find("now").replaceChildren(make("b", {}, hit.item.title), ` at ${clock(moment.start_seconds)}, `, ...words);
    if (!(await loaded)) return;
    if (this.player.from > 0) find("now").append(make("span", { class: "quiet" }, ` (a version for this browser, from ${clock(this.player.from)})`));
    await this.player.play();
  }

  /** Finds out what this browser can play of a picture, a sound or both, and takes it up; gives whether it did. */
  async #load(what) {
    const turn = ++this.turn;
    this.wanted = what;
    this.player.pause();
    this.#note(null);
    find("mixing").hidden = !(what.picture && what.sound);
    this.root.dataset.mode = what.picture ? (what.sound ? "pair" : "picture") : "sound";
    find("picture").hidden = !what.picture;
    find("big-wave").hidden = Boolean(what.picture);
    const slow = setTimeout(() => turn === this.turn && this.#note("Making a version that this browser can play…"), SLOW_MS);
    const parts = await Promise.allSettled([this.#playable(what.picture, "video"), this.#playable(what.sound, "audio")]);
    clearTimeout(slow);
    if (turn !== this.turn) return false;
    // Where one of the two cannot be had, the other one can still be looked at or listened to.
    const [picture, sound] = parts.map((part) => part.value ?? null);
    const problem = parts.find((part) => part.reason)?.reason;
    this.#note(problem ? `${problem.title}: ${problem.detail}` : null);
    find("mixing").hidden = !(picture && sound);
    this.player.load({ ...what, picture, sound });
    return !problem;
  }

  /** A part of what is loaded with its address; a converted one begins later than its file. */
  async #playable(part, sense) {
    if (!part) return null;
    const { media, starts_seconds: from, converted } = await ask(mediaOf.playback(part.source, sense, part.at, this.refused.has(told(part.source, sense))));
    return { ...part, url: media, from, converted };
  }

  /** This browser refuses what was taken up: once, it is converted. */
  async #mend(sense) {
    const part = this.player.what?.[sense];
    if (!part) return;
    if (part.converted) {
      this.player.pause();
      this.#note(sense === "picture" ? "This browser cannot play this picture. Searching works all the same." : "This browser cannot play this sound. Download it to hear it.");
      return;
    }
    // A find plays as soon as it can; that it could not has ended its playing.
    const playing = this.player.playing || this.laid;
    this.refused.add(told(part.source, sense === "picture" ? "video" : "audio"));
    const loaded = await this.#load(this.wanted);
    if (loaded && playing) await this.player.play();
  }

  /** The film with the sound under it, as it is heard: written by the service, saved by the browser. */
  async #take() {
    const { picture, sound } = this.player.what;
    const first = sound.at - picture.at - this.player.nudge; // second of the sound at the film's beginning
    const button = find("take");
    if (button.getAttribute("aria-busy") === "true") return;
    button.setAttribute("aria-busy", "true");
    find("take-words").textContent = "Writing the film…";
    try {
      const made = await ask("/dubs", { method: "POST", body: {
        film: picture.source, sound: sound.source, duck: this.player.levels.own > 0,
        start_seconds: Math.max(0, first), at_seconds: Math.max(0, -first),
      } });
      save(made.media, made.name);
      const loud = made.loudness_lufs === null ? "" : ` at ${made.loudness_lufs.toFixed(1)} LUFS`;
      toast(`${made.name}: written${loud}, its picture untouched.`);
    } catch (problem) {
      toast(`${problem.title}: ${problem.detail}`);
    }
    button.removeAttribute("aria-busy");
    find("take-words").textContent = "Save the film with this sound";
  }

  #peaksOfAsked() {
    const { asked } = this;
    if (asked.kind === "query") return () => queryPeaks(asked.id, 1200);
    return () => itemPeaks(asked.id, undefined, undefined, 1200);
  }

  /** A hit's sound in its own time; of long files the surroundings of the moment. */
  #laneOfHit(hit, sense) {
    const whole = hit.item.duration_seconds <= LONGEST_DRAWN_SECONDS;
    const from = whole ? 0 : Math.max(0, hit.moment.start_seconds - LONGEST_DRAWN_SECONDS / 2);
    const to = whole ? Math.max(hit.item.duration_seconds, hit.moment.end_seconds) : Math.min(hit.item.duration_seconds, from + LONGEST_DRAWN_SECONDS);
    return { name: "found", sense, load: () => itemPeaks(hit.item.id, from, to, 1200), from, to };
  }

  #drawLanes() {
    const { lanes } = this;
    for (const lane of lanes) {
      lane.peaks = null;
      lane.load().then((peaks) => { lane.peaks = peaks; if (lanes === this.lanes) this.paint(); }, () => {});
    }
    this.paint();
  }

  paint() {
    const { from } = this.player;
    const axis = Math.max(1e-3, (this.player.duration || this.match?.end || 1) - from);
    const { context, width, height } = ready(find("lane-canvas"));
    const x = (time) => ((time - from) / axis) * width;
    if (this.match) {
      context.fillStyle = colour("sound-soft");
      context.globalAlpha = 0.55;
      context.fillRect(x(this.match.start), 0, Math.max(2, x(this.match.end) - x(this.match.start)), height);
      context.globalAlpha = 1;
    }
    const room = (height - 12) / Math.max(1, this.lanes.length);
    this.lanes.forEach((lane, place) => {
      if (!lane.peaks) return;
      const fill = colour(lane.sense === "sound" ? "sound-fill" : "picture-fill");
      context.save();
      context.beginPath();
      context.rect(0, 0, width, height);
      context.clip();
      bars(context, lane.peaks, { x: x(lane.from), y: 6 + place * room, width: Math.max(3, x(lane.to) - x(lane.from)), height: room - 4, shade: () => fill });
      context.restore();
      if (this.lanes.length > 1) this.#name(context, lane.name, 6 + place * room);
    });
    context.fillStyle = colour("ink");
    context.fillRect(Math.min(width - 1.5, x(this.player.time)), 0, 1.5, height);
    const [lane] = this.lanes;
    if (!find("big-wave").hidden && lane?.peaks) {
      draw(find("big-wave"), lane.peaks, { played: (this.player.time - from) / axis, on: "sound-fill", off: "strong-line" });
    }
  }

  #name(context, name, y) {
    context.font = "11px ui-sans-serif, system-ui, sans-serif";
    context.fillStyle = colour("sheet");
    context.globalAlpha = 0.8;
    context.fillRect(4, y + 1, context.measureText(name).width + 8, 15);
    context.globalAlpha = 1;
    context.fillStyle = colour("quiet");
    context.fillText(name, 8, y + 12);
  }

  #note(text) {
    find("screen-note").hidden = !text;
    find("screen-note").textContent = text ?? "";
  }

  #show() {
    const { player } = this;
    this.root.dataset.state = player.playing ? "playing" : "paused";
    this.root.dataset.drift = player.drift.toFixed(4);
    this.root.dataset.jumps = player.jumps;
    find("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
    find("clock").textContent = `${clock(player.time)} / ${clock(player.duration)}`;
    const seek = find("seek");
    seek.min = player.from;
    seek.max = player.duration || player.from + 1;
    if (document.activeElement !== seek || player.playing) seek.value = player.time;
    seek.setAttribute("aria-valuetext", `${clock(player.time)} of ${clock(player.duration)}`);
    find("nudge").textContent = `${player.nudge > 0 ? "+" : ""}${Math.round(player.nudge * 1000)} ms`.replace("-", "−");
    const badge = find("sync-badge");
    badge.hidden = !(player.playing && player.follower && !find("sound").paused);
    const off = Math.round(Math.abs(player.drift) * 1000);
    badge.classList.toggle("good", off <= 45);
    badge.textContent = off <= 45 ? `in sync, ${off} ms` : "catching up";
    this.paint();
  }

  /** Facts of what is searched with, in words. */
  static facts(asked) {
    const senses = [asked.hasPicture ? "picture" : null, asked.hasSound ? "sound" : null].filter(Boolean).join(" and ");
    const only = asked.hasPicture && asked.hasSound ? senses : `${senses} only`;
    const moment = asked.start === undefined ? "" : `, the moment at ${clock(asked.start)}`;
    return `${length(asked.duration)}, ${only}${moment}`;
  }
}
