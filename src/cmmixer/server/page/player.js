// One film and one sound, played as if they were one. The ear hears every correction and the eye hardly any, so the sound
// runs untouched and the picture is hurried or held back a little until both agree.
//
//   a moment of the picture at `picture.at` goes with the moment of the sound at `sound.at`, so
//   sound time = picture time - picture.at + sound.at - nudge          (a positive nudge: the sound comes later)
//
// All times are those of the files; of a converted stretch, second 0 of the medium is second `from` of its file.

const FOLLOW_SECONDS = 0.008; // closer than this nobody sees or hears
const JUMP_SECONDS = 0.6; // further than this the sound jumps
const REST_MS = 1500; // and then is left alone for a while: jumping takes time itself
const HURRY_PER_SECOND = 2.5; // off by 100 ms: the picture runs a quarter faster or slower
const MOST_HURRY = 0.5;
const TICK_MS = 40;
const READY_MS = 6000;

const HAVE_FUTURE_DATA = 3;

/** Resolves when a medium can play from where it is, or cannot ever, or after a while. */
function ready(medium) {
  if ((medium.readyState >= HAVE_FUTURE_DATA && !medium.seeking) || medium.error) return Promise.resolve();
  return new Promise((resolve) => {
    const events = ["canplay", "seeked", "error"];
    const look = () => {
      if ((medium.readyState < HAVE_FUTURE_DATA || medium.seeking) && !medium.error) return;
      events.forEach((name) => medium.removeEventListener(name, look));
      clearTimeout(late);
      resolve();
    };
    const late = setTimeout(() => { events.forEach((name) => medium.removeEventListener(name, look)); resolve(); }, READY_MS);
    events.forEach((name) => medium.addEventListener(name, look));
  });
}

export class Player extends EventTarget {
  constructor(picture, sound) {
    super();
    this.picture = picture;
    this.sound = sound;
    this.what = null; // { picture: { url, at, from } | null, sound: { url, at, from } | null, start, end }
    this.nudge = 0;
    this.loop = false;
    this.levels = { found: 1, own: 0 };
    this.drift = 0;
    this.jumps = 0; // how often the sound had to jump
    this.jumped = 0;
    this.ticket = 0;
    this.wanted = false;
    this.timer = null;
    for (const medium of [picture, sound]) {
      const broken = () => this.#tell("broken", { sense: medium === picture ? "picture" : "sound" });
      medium.addEventListener("error", () => medium.getAttribute("src") && broken());
      // A browser that knows the sound's format but not the picture's plays the sound and says nothing.
      medium.addEventListener("loadedmetadata", () => medium === picture && this.what?.picture && !picture.videoWidth && broken());
      medium.addEventListener("loadedmetadata", () => this.#tell("change"));
    }
    picture.addEventListener("waiting", () => this.follower?.pause());
    for (const medium of [picture, sound]) {
      medium.addEventListener("ended", () => { if (medium === this.leader) this.loop ? this.toStart() : this.pause(); });
    }
  }

  /** What is heard and seen first: the picture where there is one. */
  get leader() { return this.what?.picture ? this.picture : this.sound; }
  get follower() { return this.what?.picture && this.what?.sound ? this.sound : null; }
  get from() { return (this.what?.picture ?? this.what?.sound)?.from ?? 0; }
  get time() { return this.from + (this.leader.currentTime || 0); }
  get duration() { return Number.isFinite(this.leader.duration) ? this.from + this.leader.duration : 0; }
  get playing() { return this.wanted; }

  /** Takes up a film, a sound, or both; `start` and `end` are the moment, in the leader's time. */
  load(what) {
    this.pause();
    this.what = what;
    this.nudge = 0;
    this.jumps = 0;
    for (const [medium, part] of [[this.picture, what.picture], [this.sound, what.sound]]) {
      const url = part?.url ?? null;
      if (url === null) { medium.removeAttribute("src"); medium.load(); } else if (medium.getAttribute("src") !== url || medium.error) { medium.src = url; }
    }
    this.setLevels({});
    this.#tell("change");
    return this.seek(what.start);
  }

  setLevels(levels) {
    Object.assign(this.levels, levels);
    const pair = this.follower !== null;
    this.sound.volume = this.levels.found;
    this.picture.volume = pair ? this.levels.own : this.levels.found;
    this.picture.muted = pair && this.levels.own === 0;
  }

  /** Where the sound's medium ought to be. */
  expected(time = this.time) {
    const { picture, sound } = this.what;
    return time - picture.at + sound.at - this.nudge - sound.from;
  }

  seek(time) {
    this.leader.currentTime = Math.max(0, time - this.from);
    this.#align();
    this.#tell("change");
  }

  toStart() { if (this.what) this.seek(this.what.start); }

  shift(seconds) {
    this.nudge = Math.round((this.nudge + seconds) * 1000) / 1000;
    this.#align();
    this.#tell("change");
  }

  toggle() { this.playing ? this.pause() : this.play(); }

  async play() {
    if (!this.what) return;
    const ticket = ++this.ticket;
    this.wanted = true;
    this.#tell("change");
    if (this.leader.ended || (this.duration && this.time >= this.duration - 0.05)) this.toStart();
    this.#align();
    await Promise.all([ready(this.leader), this.#within() ? ready(this.sound) : null]);
    if (ticket !== this.ticket) return;
    this.#align();
    const together = [this.leader, ...(this.follower && this.#within() ? [this.sound] : [])];
    try {
      await Promise.all(together.map((medium) => medium.play()));
    } catch (fault) {
      // A picture that waits for data holds the sound back before it has begun; the next tick lets it go on.
      if (fault.name !== "AbortError") {
        if (ticket === this.ticket) this.pause();
        return;
      }
    }
    if (ticket !== this.ticket) return;
    clearInterval(this.timer);
    this.timer = setInterval(() => this.#tick(), TICK_MS);
  }

  pause() {
    this.ticket += 1;
    this.wanted = false;
    clearInterval(this.timer);
    for (const medium of [this.picture, this.sound]) medium.pause();
    this.picture.playbackRate = 1;
    this.#tell("change");
  }

  /** Whether the sound has something to say at the picture's time. */
  #within() {
    if (!this.follower) return false;
    const where = this.expected();
    return where >= 0 && !(where >= this.sound.duration);
  }

  #align() {
    if (!this.follower) return;
    const where = this.expected();
    if (where >= 0) this.sound.currentTime = Number.isFinite(this.sound.duration) ? Math.min(where, this.sound.duration) : where;
    this.picture.playbackRate = 1;
  }

  #tick() {
    if (this.loop && this.what.end && this.time >= this.what.end) this.toStart();
    if (this.follower) this.#follow();
    this.#tell("tick");
  }

  #follow() {
    if (!this.#within() || this.picture.seeking || this.picture.readyState < HAVE_FUTURE_DATA) {
      if (!this.sound.paused) this.sound.pause();
      this.picture.playbackRate = 1;
      return;
    }
    if (this.sound.paused) {
      this.#align();
      this.sound.play().catch(() => {});
      return;
    }
    if (this.sound.seeking) return;
    this.drift = this.sound.currentTime - this.expected();
    const off = Math.abs(this.drift);
    if (off > JUMP_SECONDS && performance.now() - this.jumped > REST_MS) {
      this.jumps += 1;
      this.jumped = performance.now();
      this.#align();
    } else {
      const hurry = off > FOLLOW_SECONDS ? Math.max(-MOST_HURRY, Math.min(MOST_HURRY, this.drift * HURRY_PER_SECOND)) : 0;
      this.picture.playbackRate = 1 + hurry;
    }
  }

  #tell(name, detail = {}) { this.dispatchEvent(new CustomEvent(name, { detail })); }
}
