// Plays a video and a separate sound in sync. The ear hears every correction and the eye hardly any, so the audio runs
// untouched, and the video is sped up or slowed down a little until both agree.
//
// The second `video.at` of the video matches the second `audio.at` of the audio, so
//   audio time = video time - video.at + audio.at - shift          (a positive shift: the audio comes later)
//
// All times are times in the files. A converted part begins at second `from` of its file.

const IN_SYNC_SECONDS = 0.008; // a smaller drift is not corrected
const JUMP_SECONDS = 0.6; // with a larger drift the audio jumps
const JUMP_PAUSE_MS = 1500; // after a jump none follows for a while, because jumping takes time itself
const RATE_PER_SECOND = 2.5; // a drift of 100 ms speeds the video up or down by a quarter
const MAX_RATE_CHANGE = 0.5;
const TICK_MS = 40;
const READY_MS = 6000;

const HAVE_FUTURE_DATA = 3;

/** Resolves when a media element can play from its position, has failed, or has taken too long. */
function ready(media) {
  if ((media.readyState >= HAVE_FUTURE_DATA && !media.seeking) || media.error) return Promise.resolve();
  return new Promise((resolve) => {
    const events = ["canplay", "seeked", "error"];
    const finish = () => { events.forEach((name) => media.removeEventListener(name, check)); clearTimeout(timeout); resolve(); };
    const check = () => { if ((media.readyState >= HAVE_FUTURE_DATA && !media.seeking) || media.error) finish(); };
    const timeout = setTimeout(finish, READY_MS);
    events.forEach((name) => media.addEventListener(name, check));
  });
}

export class Player extends EventTarget {
  /** Uses a video element and an audio element. Emits `change`, `tick` and `broken` (with the modality). */
  constructor(video, audio) {
    super();
    this.video = video;
    this.audio = audio;
    this.loaded = null; // { video: { url, at, from } | null, audio: { url, at, from } | null, start, end }
    this.shift = 0;
    this.loop = false;
    this.levels = { found: 1, own: 0 };
    this.drift = 0;
    this.jumps = 0; // how often the audio had to jump
    this.jumpedAt = 0;
    this.playNumber = 0; // a play that was overtaken by another or by a pause ends
    this.playing = false;
    this.timer = null;
    for (const media of [video, audio]) {
      const broken = () => this.#emit("broken", { modality: media === video ? "video" : "audio" });
      media.addEventListener("error", () => media.getAttribute("src") && broken());
      // A browser that supports the audio codec but not the video codec plays the audio and reports no error.
      media.addEventListener("loadedmetadata", () => media === video && this.loaded?.video && !video.videoWidth && broken());
      media.addEventListener("loadedmetadata", () => this.#emit("change"));
      media.addEventListener("ended", () => { if (media === this.leader) this.loop ? this.toStart() : this.pause(); });
    }
    video.addEventListener("waiting", () => this.follower?.pause());
  }

  /** The element whose time counts: the video where there is one. */
  get leader() { return this.loaded?.video ? this.video : this.audio; }
  /** The audio element where it plays with a video, else null. */
  get follower() { return this.loaded?.video && this.loaded?.audio ? this.audio : null; }
  get from() { return (this.loaded?.video ?? this.loaded?.audio)?.from ?? 0; }
  get time() { return this.from + (this.leader.currentTime || 0); }
  get duration() { return Number.isFinite(this.leader.duration) ? this.from + this.leader.duration : 0; }

  /** Loads a video, an audio file, or both; `start` and `end` are the moment, in the leader's time. */
  load(parts) {
    this.pause();
    this.loaded = parts;
    this.shift = 0;
    this.jumps = 0;
    for (const [media, part] of [[this.video, parts.video], [this.audio, parts.audio]]) {
      const url = part?.url ?? null;
      if (url === null) { media.removeAttribute("src"); media.load(); } else if (media.getAttribute("src") !== url || media.error) { media.src = url; }
    }
    this.setLevels({});
    this.#emit("change");
    return this.seek(parts.start);
  }

  setLevels(levels) {
    Object.assign(this.levels, levels);
    const isPair = this.follower !== null;
    this.audio.volume = this.levels.found;
    this.video.volume = isPair ? this.levels.own : this.levels.found;
    this.video.muted = isPair && this.levels.own === 0;
  }

  seek(time) {
    this.leader.currentTime = Math.max(0, time - this.from);
    this.#align();
    this.#emit("change");
  }

  toStart() { if (this.loaded) this.seek(this.loaded.start); }

  /** Shifts the audio by some seconds more. */
  shiftBy(seconds) {
    this.shift = Math.round((this.shift + seconds) * 1000) / 1000;
    this.#align();
    this.#emit("change");
  }

  toggle() { this.playing ? this.pause() : this.play(); }

  async play() {
    if (!this.loaded) return;
    const number = ++this.playNumber;
    this.playing = true;
    this.#emit("change");
    if (this.leader.ended || (this.duration && this.time >= this.duration - 0.05)) this.toStart();
    this.#align();
    await Promise.all([ready(this.leader), this.#hasAudioNow() ? ready(this.audio) : null]);
    if (number !== this.playNumber) return;
    this.#align();
    const elements = [this.leader, ...(this.follower && this.#hasAudioNow() ? [this.audio] : [])];
    try {
      await Promise.all(elements.map((media) => media.play()));
    } catch (error) {
      // A video that waits for data pauses the audio before it has started; the next tick starts it again.
      if (error.name !== "AbortError") {
        if (number === this.playNumber) this.pause();
        return;
      }
    }
    if (number !== this.playNumber) return;
    clearInterval(this.timer);
    this.timer = setInterval(() => this.#tick(), TICK_MS);
  }

  pause() {
    this.playNumber += 1;
    this.playing = false;
    clearInterval(this.timer);
    for (const media of [this.video, this.audio]) media.pause();
    this.video.playbackRate = 1;
    this.#emit("change");
  }

  /** Where the audio element should be now. */
  #expectedAudioTime() {
    const { video, audio } = this.loaded;
    return this.time - video.at + audio.at - this.shift - audio.from;
  }

  /** Whether the audio has begun and not ended at the video's time. */
  #hasAudioNow() {
    if (!this.follower) return false;
    const expected = this.#expectedAudioTime();
    return expected >= 0 && !(expected >= this.audio.duration);
  }

  #align() {
    if (!this.follower) return;
    const expected = this.#expectedAudioTime();
    if (expected >= 0) this.audio.currentTime = Number.isFinite(this.audio.duration) ? Math.min(expected, this.audio.duration) : expected;
    this.video.playbackRate = 1;
  }

  #tick() {
    if (this.loop && this.loaded.end && this.time >= this.loaded.end) this.toStart();
    if (this.follower) this.#synchronize();
    this.#emit("tick");
  }

  #synchronize() {
    if (!this.#hasAudioNow() || this.video.seeking || this.video.readyState < HAVE_FUTURE_DATA) {
      if (!this.audio.paused) this.audio.pause();
      this.video.playbackRate = 1;
      return;
    }
    if (this.audio.paused) {
      this.#align();
      this.audio.play().catch(() => {});
      return;
    }
    if (this.audio.seeking) return;
    this.drift = this.audio.currentTime - this.#expectedAudioTime();
    const distance = Math.abs(this.drift);
    if (distance > JUMP_SECONDS && performance.now() - this.jumpedAt > JUMP_PAUSE_MS) {
      this.jumps += 1;
      this.jumpedAt = performance.now();
      this.#align();
    } else {
      const change = distance > IN_SYNC_SECONDS ? Math.max(-MAX_RATE_CHANGE, Math.min(MAX_RATE_CHANGE, this.drift * RATE_PER_SECOND)) : 0;
      this.video.playbackRate = 1 + change;
    }
  }

  #emit(name, detail = {}) { this.dispatchEvent(new CustomEvent(name, { detail })); }
}
