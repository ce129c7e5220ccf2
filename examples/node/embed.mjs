// Sentences as vectors, by stock Transformers.js in Node, with a folder that `trimodal export OUT --to onnx` wrote:
//   npm install @huggingface/transformers@4.3.2
//   node embed.mjs ./minilm-onnx "a cat sits on the mat" "two dogs run" "the kitten is on a rug"
// `q8` reads onnx/model_quantized.onnx, `q4` model_q4.onnx, `fp32` model.onnx. Nothing is taken from the web.
import { basename, dirname, resolve } from "node:path";
import { cos_sim, env, pipeline } from "@huggingface/transformers";

const [folder, first, ...others] = process.argv.slice(2);
if (!others.length) {
  console.error("usage: node embed.mjs FOLDER SENTENCE SENTENCE [SENTENCE ...]");
  process.exit(2);
}
env.allowRemoteModels = false;
env.localModelPath = dirname(resolve(folder));
const embed = await pipeline("feature-extraction", basename(resolve(folder)), { dtype: "q8" });
const [asked, ...vectors] = (await embed([first, ...others], { pooling: "mean", normalize: true })).tolist();
vectors.forEach((vector, i) => console.log(cos_sim(asked, vector).toFixed(4), others[i]));
