// Waveforms on canvases, sharp on any screen, in the colors of the page.

// Peaks below this are drawn small: scaling silence to full height would show noise.
const MIN_LOUDEST = 6;

export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Clears a canvas and returns its context in CSS pixels, with its size. */
export function clearCanvas(canvas) {
  const box = canvas.getBoundingClientRect();
  const scale = window.devicePixelRatio || 1;
  const [width, height] = [Math.max(1, Math.round(box.width)), Math.max(1, Math.round(box.height))];
  if (canvas.width !== width * scale || canvas.height !== height * scale) Object.assign(canvas, { width: width * scale, height: height * scale });
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** The loudest peak between two bins. */
function peakLevel(peaks, first, last) {
  let level = 0;
  for (let bin = first; bin < last; bin += 1) level = Math.max(level, peaks.high[bin], -peaks.low[bin]);
  return level;
}

/** Draws a waveform as bars; `shade(fraction)` returns the color at a fraction of the width. */
export function drawBars(context, peaks, { x, y, width, height, shade, step = 3, bar = 2 }) {
  const count = Math.max(1, Math.floor(width / step));
  const bins = peaks.low.length;
  const loudest = Math.max(MIN_LOUDEST, peakLevel(peaks, 0, bins));
  for (let index = 0; index < count; index += 1) {
    const first = Math.floor((index * bins) / count);
    const last = Math.max(first + 1, Math.floor(((index + 1) * bins) / count));
    const tall = Math.max(1.5, (Math.sqrt(peakLevel(peaks, first, last) / loudest)) ** 1.6 * height);
    context.fillStyle = shade((index + 0.5) / count);
    context.beginPath();
    context.roundRect(x + index * step, y + (height - tall) / 2, bar, tall, 1);
    context.fill();
  }
}

/** Draws a waveform that fills its canvas; `played` is 0 .. 1. */
export function drawWaveform(canvas, peaks, { played = 0, playedColor = "audio-fill", restColor = "audio-fill" } = {}) {
  const { context, width, height } = clearCanvas(canvas);
  const [before, after] = [color(playedColor), color(restColor)];
  drawBars(context, peaks, { x: 0, y: 0, width, height, shade: (fraction) => (fraction < played ? before : after) });
}

// Canvases are drawn when they become visible, and again when their size or the colors of the page change.
const waveforms = new Map();
const visible = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) { visible.unobserve(entry.target); waveforms.get(entry.target)?.load(); }
}, { rootMargin: "200px" });
const resized = new ResizeObserver((entries) => entries.forEach((entry) => waveforms.get(entry.target)?.draw()));

/** Loads and draws a waveform once its canvas is visible. `load` returns a promise of peaks. */
export function drawWhenVisible(canvas, load) {
  const waveform = {
    peaks: null,
    draw() { if (this.peaks && canvas.isConnected) drawWaveform(canvas, this.peaks); },
    load() { load().then((peaks) => { this.peaks = peaks; this.draw(); canvas.dataset.drawn = "true"; }, () => { canvas.dataset.drawn = "none"; }); },
  };
  waveforms.set(canvas, waveform);
  visible.observe(canvas);
  resized.observe(canvas);
}

/** Draws all canvases again, and forgets those that have left the page. */
export function redrawAll() {
  for (const [canvas, waveform] of waveforms) {
    if (canvas.isConnected) waveform.draw();
    else { visible.unobserve(canvas); resized.unobserve(canvas); waveforms.delete(canvas); }
  }
}
