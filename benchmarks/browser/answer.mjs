// Answers the questions of FOLDER/questions.json with stock Transformers.js in Node; prints one JSON object.
import { readFileSync } from "node:fs";
import * as tf from "@huggingface/transformers";

const folder = process.argv[2];
const questions = JSON.parse(readFileSync(`${folder}/questions.json`));
tf.env.allowRemoteModels = false;
tf.env.localModelPath = `${folder}/`;
const options = { dtype: "q8" };
const rows = (tensor) => tensor.tolist();
const cosine = (a, b) => tf.cos_sim(a, b);
// 16-bit mono WAV files with the plain header of 44 bytes, as they were written for this check.
const sound = (path) => {
  const bytes = readFileSync(path);
  return Float32Array.from({ length: (bytes.length - 44) / 2 }, (_, i) => bytes.readInt16LE(44 + 2 * i) / 32768);
};

const ASK = {
  async minilm({ sentences, unseen }) {
    const embed = await tf.pipeline("feature-extraction", "minilm", options);
    const all = [...sentences, ...unseen], found = [];
    for (let i = 0; i < all.length; i += 20) found.push(...rows(await embed(all.slice(i, i + 20), { pooling: "mean", normalize: true })));
    return found;
  },
  async clip({ images, names }) {
    const tokenizer = await tf.AutoTokenizer.from_pretrained("clip");
    const processor = await tf.AutoProcessor.from_pretrained("clip");
    const text = await tf.CLIPTextModelWithProjection.from_pretrained("clip", options);
    const vision = await tf.CLIPVisionModelWithProjection.from_pretrained("clip", options);
    const words = rows((await text(tokenizer(names, { padding: true, truncation: true }))).text_embeds);
    const found = [];
    for (const path of images) {
      const [seen] = rows((await vision(await processor(await tf.RawImage.read(path)))).image_embeds);
      found.push(words.map((row) => cosine(row, seen)));
    }
    return found;
  },
  async vit({ images, names }) {
    const classify = await tf.pipeline("image-classification", "vit", options);
    const found = [];
    for (const path of images) {
      const scores = Object.fromEntries((await classify(await tf.RawImage.read(path), { top_k: names.length })).map((r) => [r.label, r.score]));
      found.push(names.map((label) => scores[label]));
    }
    return found;
  },
  async whisper({ sounds }) {
    const listen = await tf.pipeline("automatic-speech-recognition", "whisper", options);
    const found = [];
    for (const path of sounds) found.push((await listen(sound(path), { language: "en", task: "transcribe" })).text.trim());
    return found;
  },
};

const answers = {};
for (const [name, question] of Object.entries(questions)) {
  try { answers[name] = await ASK[name](question); } catch (error) { answers[name] = { error: error.message }; }
}
console.log(JSON.stringify(answers));
