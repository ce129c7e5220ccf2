// Whatever sound the browser can read, as a WAV of 16 bits, mono, 16 kHz: what every model that hears takes.
const RATE = 16000;

export async function toWave(blob) {
  const context = new OfflineAudioContext(1, 1, RATE);
  const decoded = await context.decodeAudioData(await blob.arrayBuffer());  // resampled to the context's rate
  const samples = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel += 1)
    decoded.getChannelData(channel).forEach((value, place) => { samples[place] += value / decoded.numberOfChannels; });
  return { samples, file: new Blob([writeWave(samples)], { type: "audio/wav" }) };
}

function writeWave(samples) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const write = (place, text) => [...text].forEach((letter, n) => view.setUint8(place + n, letter.charCodeAt(0)));
  write(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); write(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, RATE, true); view.setUint32(28, 2 * RATE, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  write(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, place) => view.setInt16(44 + 2 * place, Math.max(-1, Math.min(1, value)) * 32767, true));
  return view.buffer;
}

export function drawWave(canvas, samples) {
  const pen = canvas.getContext("2d"), { width, height } = canvas, step = samples.length / width;
  pen.clearRect(0, 0, width, height);
  pen.fillStyle = getComputedStyle(canvas).color;
  for (let x = 0; x < width; x += 1) {
    let top = 0;
    for (let place = Math.floor(x * step); place < Math.floor((x + 1) * step); place += 1) top = Math.max(top, Math.abs(samples[place]));
    pen.fillRect(x, (height * (1 - top)) / 2, 1, Math.max(1, height * top));
  }
}
