// Waveforms on canvas, sharp on any screen, in the colours of the page.

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** The canvas' context scaled to CSS pixels, cleared, and its size. */
export function ready(canvas) {
  const box = canvas.getBoundingClientRect();
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [Math.max(1, Math.round(box.width)), Math.max(1, Math.round(box.height))];
  if (canvas.width !== width * scale || canvas.height !== height * scale) Object.assign(canvas, { width: width * scale, height: height * scale });
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** Loudest level of any part, so that quiet sounds are seen too; silence stays flat. */
export function loudest(peaks) {
  let most = 6;
  for (let bin = 0; bin < peaks.low.length; bin += 1) most = Math.max(most, peaks.high[bin], -peaks.low[bin]);
  return most;
}

/** Bars of a waveform between x and x + width; `shade(fraction)` gives the colour at a place of the stretch. */
export function bars(context, peaks, { x, y, width, height, shade, step = 3, bar = 2 }) {
  const count = Math.max(1, Math.floor(width / step));
  const most = loudest(peaks);
  const bins = peaks.low.length;
  for (let place = 0; place < count; place += 1) {
    const first = Math.floor((place * bins) / count);
    const last = Math.max(first + 1, Math.floor(((place + 1) * bins) / count));
    let level = 0;
    for (let bin = first; bin < last; bin += 1) level = Math.max(level, peaks.high[bin], -peaks.low[bin]);
    const tall = Math.max(1.5, (Math.sqrt(level / most)) ** 1.6 * height);
    context.fillStyle = shade((place + 0.5) / count);
    context.beginPath();
    context.roundRect(x + place * step, y + (height - tall) / 2, bar, tall, 1);
    context.fill();
  }
}

/** A waveform that fills its canvas; `played` is 0 .. 1. */
export function draw(canvas, peaks, { played = 0, on = "sound-fill", off = "sound-fill" } = {}) {
  const { context, width, height } = ready(canvas);
  const [ahead, behind] = [colour(off), colour(on)];
  bars(context, peaks, { x: 0, y: 0, width, height, shade: (place) => (place < played ? behind : ahead) });
}

// Canvases are drawn when they come into sight, and anew when they change size or the page its colours.
const drawn = new Map();
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); drawn.get(entry.target)?.load(); }
}, { rootMargin: "200px" });
const sized = new ResizeObserver((entries) => entries.forEach((entry) => drawn.get(entry.target)?.paint()));

/** Loads and draws a waveform once its canvas is in sight. `load` gives a promise of peaks. */
export function lazily(canvas, load, options = {}) {
  const state = {
    peaks: null,
    options,
    paint() { if (this.peaks && canvas.isConnected) draw(canvas, this.peaks, this.options); },
    load() { load().then((peaks) => { this.peaks = peaks; this.paint(); canvas.dataset.drawn = "true"; }, () => { canvas.dataset.drawn = "none"; }); },
  };
  drawn.set(canvas, state);
  seen.observe(canvas);
  sized.observe(canvas);
}

/** Forgets canvases that have left the page; paints the others anew. */
export function repaint() {
  for (const [canvas, state] of drawn) {
    if (canvas.isConnected) state.paint();
    else { seen.unobserve(canvas); sized.unobserve(canvas); drawn.delete(canvas); }
  }
}
