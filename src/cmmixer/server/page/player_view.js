// The player on the page: the video, the tracks with their waveforms, transport, levels, and saving the result.

import { itemPeaks, queryPeaks, request, requestPlayback } from "./api.js";
import { byId, element, formatDuration, formatTime, saveFile, toast } from "./dom.js";
import { Player } from "./player.js";
import { clearCanvas, color, drawBars, drawWaveform } from "./waveform.js";

const SHIFT_SECONDS = 0.02;
const SLOW_MS = 500; // a conversion that is faster is not mentioned
const GOOD_SYNC_MS = 45;
const TRACK_BINS = 1200;
// Of a longer file only the surroundings of the moment are drawn.
const MAX_DRAWN_SECONDS = 900;
const SAVE_LABEL = "Save the video with this sound";

const partKey = (source, modality) => `${modality} of ${source.query ?? source.item}`;

export class PlayerView {
  constructor() {
    this.root = byId("player");
    this.player = new Player(byId("video"), byId("audio"));
    this.tracks = []; // [{ name, modality, load, peaks, from, to }], `from` and `to` in the leader's time
    this.match = null; // { start, end } in the leader's time
    this.query = null; // { kind, id, name, hasVideo, hasAudio, duration, start }
    this.wanted = null; // what was last asked for, before it is known what this browser can play of it
    this.loadNumber = 0; // a load that was overtaken by another ends
    this.showsHit = false;
    this.unplayable = new Set(); // what this browser could not play without conversion
    this.player.addEventListener("change", () => this.#update());
    this.player.addEventListener("tick", () => this.#update());
    this.player.addEventListener("broken", (event) => this.#convert(event.detail.modality));
    byId("play").addEventListener("click", () => this.player.toggle());
    byId("screen").addEventListener("click", () => this.player.toggle());
    byId("to-match").addEventListener("click", () => this.player.toStart());
    byId("loop").addEventListener("click", () => this.toggleLoop());
    byId("seek").addEventListener("input", (event) => this.player.seek(Number(event.target.value)));
    byId("earlier").addEventListener("click", () => this.player.shiftBy(-SHIFT_SECONDS));
    byId("later").addEventListener("click", () => this.player.shiftBy(SHIFT_SECONDS));
    byId("save-video").addEventListener("click", () => this.#saveVideo());
    for (const level of ["found", "own"]) {
      byId(`level-${level}`).addEventListener("input", (event) => this.player.setLevels({ [level]: Number(event.target.value) }));
    }
    new ResizeObserver(() => this.draw()).observe(byId("tracks"));
    new ResizeObserver(() => this.draw()).observe(byId("screen"));
  }

  toggleLoop() {
    this.player.loop = !this.player.loop;
    byId("loop").setAttribute("aria-pressed", String(this.player.loop));
  }

  shift(direction) { if (this.player.follower) this.player.shiftBy(direction * SHIFT_SECONDS); }

  /** Shows the query alone. */
  showQuery(query) {
    this.query = query;
    this.showsHit = false;
    this.match = null;
    const start = query.start ?? 0;
    const part = { at: start, source: { [query.kind]: query.id } };
    this.#load(query.hasVideo ? { video: part, audio: null, start } : { video: null, audio: part, start });
    this.#setTracks(query.hasAudio ? [this.#queryTrack(query.hasVideo ? "video" : "audio", 0)] : []);
    byId("now-playing").replaceChildren(element("span", {}, query.hasVideo ? "Choose a result to hear it with this picture." : "Choose a result to see it with this sound."));
  }

  /** Plays a hit together with the query, from where they match. */
  async playHit(hit, target) {
    const { query } = this;
    const { moment, query_moment: queryMoment } = hit;
    this.showsHit = true;
    const found = { at: moment.start_seconds, source: { item: hit.item.id } };
    const own = { at: queryMoment.start_seconds, source: { [query.kind]: query.id } };
    const offset = queryMoment.start_seconds - moment.start_seconds;
    const spanOf = (span) => ({ start: span.start_seconds, end: span.end_seconds });
    let parts, tracks, description;
    if (target === "audio" && query.hasVideo) {
      this.match = spanOf(queryMoment);
      parts = { video: own, audio: found };
      tracks = [query.hasAudio ? this.#queryTrack("video", 0) : null, this.#hitTrack(hit, "audio", offset)];
      description = ["with your picture from ", element("b", {}, formatTime(queryMoment.start_seconds))];
    } else if (target === "video" && query.hasAudio) {
      this.match = spanOf(moment);
      parts = { video: found, audio: own };
      tracks = [this.#hitTrack(hit, "video", 0), this.#queryTrack("audio", -offset)];
      description = ["with your sound from ", element("b", {}, formatTime(queryMoment.start_seconds))];
    } else {
      this.match = spanOf(moment);
      const isVideo = hit.item.kind === "video" && target !== "audio";
      parts = isVideo ? { video: found, audio: null } : { video: null, audio: found };
      tracks = [this.#hitTrack(hit, isVideo ? "video" : "audio", 0)];
      description = ["alone from ", element("b", {}, formatTime(moment.start_seconds))];
    }
    byId("level-found-label").textContent = target === "audio" ? "Found sound" : "Your sound";
    const loading = this.#load({ ...parts, ...this.match });
    this.#setTracks(tracks.filter(Boolean));
    byId("now-playing").replaceChildren(element("b", {}, hit.item.title), ` at ${formatTime(moment.start_seconds)}, `, ...description);
    if (!(await loading)) return;
    if (this.player.from > 0) byId("now-playing").append(element("span", { class: "quiet" }, ` (converted for this browser, from ${formatTime(this.player.from)})`));
    await this.player.play();
  }

  /** Asks what this browser can play of a video, an audio file or both, and loads it; returns whether that worked. */
  async #load(wanted) {
    const number = ++this.loadNumber;
    this.wanted = wanted;
    this.player.pause();
    this.#note(null);
    byId("mixing").hidden = !(wanted.video && wanted.audio);
    this.root.dataset.mode = wanted.video ? (wanted.audio ? "pair" : "video") : "audio";
    byId("video").hidden = !wanted.video;
    byId("large-waveform").hidden = Boolean(wanted.video);
    const slow = setTimeout(() => number === this.loadNumber && this.#note("Converting for this browser…"), SLOW_MS);
    const results = await Promise.allSettled([this.#playable(wanted.video, "video"), this.#playable(wanted.audio, "audio")]);
    clearTimeout(slow);
    if (number !== this.loadNumber) return false;
    // Where one of the two cannot be played, the other can still be watched or heard.
    const [video, audio] = results.map((result) => result.value ?? null);
    const problem = results.find((result) => result.reason)?.reason;
    this.#note(problem ? `${problem.title}: ${problem.detail}` : null);
    byId("mixing").hidden = !(video && audio);
    this.player.load({ ...wanted, video, audio });
    return !problem;
  }

  /** Adds the address to a part; a converted part begins later than its file. */
  async #playable(part, modality) {
    if (!part) return null;
    const convert = this.unplayable.has(partKey(part.source, modality));
    const { media: url, start_seconds: from, converted } = await requestPlayback(part.source, modality, part.at, convert);
    return { ...part, url, from, converted };
  }

  /** Has a part converted that this browser cannot play; only once. */
  async #convert(modality) {
    const part = this.player.loaded?.[modality];
    if (!part) return;
    if (part.converted) {
      this.player.pause();
      this.#note(modality === "video" ? "This browser cannot play this video. You can still search with it." : "This browser cannot play this sound. Download it to hear it.");
      return;
    }
    // A hit plays as soon as it can; the error has ended its playback.
    const play = this.player.playing || this.showsHit;
    this.unplayable.add(partKey(part.source, modality));
    const loaded = await this.#load(this.wanted);
    if (loaded && play) await this.player.play();
  }

  /** Saves the video with the sound as it is heard: the service writes it, the browser downloads it. */
  async #saveVideo() {
    const button = byId("save-video");
    if (button.getAttribute("aria-busy") === "true") return;
    const { video, audio } = this.player.loaded;
    const audioStart = audio.at - video.at - this.player.shift; // time in the audio at the beginning of the video
    button.setAttribute("aria-busy", "true");
    byId("save-video-label").textContent = "Writing the video…";
    try {
      const dub = await request("/dubs", { method: "POST", body: {
        video: video.source, audio: audio.source, duck: this.player.levels.own > 0,
        start_seconds: Math.max(0, audioStart), at_seconds: Math.max(0, -audioStart),
      } });
      saveFile(dub.media, dub.name);
      const loudness = dub.loudness_lufs === null ? "" : ` at ${dub.loudness_lufs.toFixed(1)} LUFS`;
      toast(`${dub.name}: saved${loudness}, picture unchanged.`);
    } catch (problem) {
      toast(`${problem.title}: ${problem.detail}`);
    }
    button.removeAttribute("aria-busy");
    byId("save-video-label").textContent = SAVE_LABEL;
  }

  /** The track of the query's audio, which begins at second `from` of the leader. */
  #queryTrack(modality, from) {
    const { query } = this;
    const load = () => (query.kind === "query" ? queryPeaks(query.id, TRACK_BINS) : itemPeaks(query.id, undefined, undefined, TRACK_BINS));
    return { name: "yours", modality, load, from, to: from + query.duration };
  }

  /** The track of a hit's audio, `offset` seconds later than in its file; of a long file the surroundings of the moment. */
  #hitTrack(hit, modality, offset) {
    const { duration_seconds: duration, id } = hit.item;
    const isShort = duration <= MAX_DRAWN_SECONDS;
    const from = isShort ? 0 : Math.max(0, hit.moment.start_seconds - MAX_DRAWN_SECONDS / 2);
    const to = isShort ? Math.max(duration, hit.moment.end_seconds) : Math.min(duration, from + MAX_DRAWN_SECONDS);
    return { name: "found", modality, load: () => itemPeaks(id, from, to, TRACK_BINS), from: from + offset, to: to + offset };
  }

  #setTracks(tracks) {
    this.tracks = tracks;
    for (const track of tracks) {
      track.peaks = null;
      track.load().then((peaks) => { track.peaks = peaks; if (tracks === this.tracks) this.draw(); }, () => {});
    }
    this.draw();
  }

  draw() {
    const { from } = this.player;
    const seconds = Math.max(1e-3, (this.player.duration || this.match?.end || 1) - from);
    const { context, width, height } = clearCanvas(byId("track-canvas"));
    const x = (time) => ((time - from) / seconds) * width;
    if (this.match) {
      context.fillStyle = color("audio-soft");
      context.globalAlpha = 0.55;
      context.fillRect(x(this.match.start), 0, Math.max(2, x(this.match.end) - x(this.match.start)), height);
      context.globalAlpha = 1;
    }
    const trackHeight = (height - 12) / Math.max(1, this.tracks.length);
    this.tracks.forEach((track, index) => {
      if (!track.peaks) return;
      const fill = color(track.modality === "audio" ? "audio-fill" : "video-fill");
      const y = 6 + index * trackHeight;
      context.save();
      context.beginPath();
      context.rect(0, 0, width, height);
      context.clip();
      drawBars(context, track.peaks, { x: x(track.from), y, width: Math.max(3, x(track.to) - x(track.from)), height: trackHeight - 4, shade: () => fill });
      context.restore();
      if (this.tracks.length > 1) this.#drawName(context, track.name, y);
    });
    context.fillStyle = color("ink");
    context.fillRect(Math.min(width - 1.5, x(this.player.time)), 0, 1.5, height);
    const [track] = this.tracks;
    if (!byId("large-waveform").hidden && track?.peaks) {
      drawWaveform(byId("large-waveform"), track.peaks, { played: (this.player.time - from) / seconds, playedColor: "audio-fill", restColor: "strong-line" });
    }
  }

  #drawName(context, name, y) {
    context.font = "11px ui-sans-serif, system-ui, sans-serif";
    context.fillStyle = color("sheet");
    context.globalAlpha = 0.8;
    context.fillRect(4, y + 1, context.measureText(name).width + 8, 15);
    context.globalAlpha = 1;
    context.fillStyle = color("quiet");
    context.fillText(name, 8, y + 12);
  }

  #note(text) {
    byId("screen-note").hidden = !text;
    byId("screen-note").textContent = text ?? "";
  }

  #update() {
    const { player } = this;
    this.root.dataset.state = player.playing ? "playing" : "paused";
    this.root.dataset.drift = player.drift.toFixed(4);
    this.root.dataset.jumps = player.jumps;
    byId("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
    byId("clock").textContent = `${formatTime(player.time)} / ${formatTime(player.duration)}`;
    const seek = byId("seek");
    seek.min = player.from;
    seek.max = player.duration || player.from + 1;
    if (document.activeElement !== seek || player.playing) seek.value = player.time;
    seek.setAttribute("aria-valuetext", `${formatTime(player.time)} of ${formatTime(player.duration)}`);
    byId("shift").textContent = `${player.shift > 0 ? "+" : ""}${Math.round(player.shift * 1000)} ms`.replace("-", "−");
    const badge = byId("sync-badge");
    badge.hidden = !(player.playing && player.follower && !byId("audio").paused);
    const driftMs = Math.round(Math.abs(player.drift) * 1000);
    badge.classList.toggle("good", driftMs <= GOOD_SYNC_MS);
    badge.textContent = driftMs <= GOOD_SYNC_MS ? `in sync, ${driftMs} ms` : "synchronizing";
    this.draw();
  }
}

/** Describes a query in words: its duration, what it has, and the moment that is searched with. */
export function describeQuery(query) {
  const has = [query.hasVideo ? "picture" : null, query.hasAudio ? "sound" : null].filter(Boolean);
  const moment = query.start === undefined ? "" : `, the moment at ${formatTime(query.start)}`;
  return `${formatDuration(query.duration)}, ${has.length === 2 ? has.join(" and ") : `${has[0]} only`}${moment}`;
}
