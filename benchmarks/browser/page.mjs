// Opens examples/browser/index.html in headless Chromium, picks each exported folder with the page's own input and asks by its form.
// node page.mjs FOLDER URL CHROMIUM: prints one JSON object, the rows of the page's table by model.
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [folder, url, executablePath] = process.argv.slice(2);
const questions = JSON.parse(readFileSync(`${folder}/questions.json`));
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"] });
const fill = {
  minilm: (page, q) => page.fill("#sentences", q.sentences.join("\n")),
  vit: (page, q) => page.setInputFiles("#image", q.images[0]),
  whisper: (page, q) => page.setInputFiles("#audio", q.sounds[0]),
  async clip(page, q) { await page.setInputFiles("#image", q.images[0]); await page.fill("#texts", q.texts.join("\n")); },
};
const ask = async (name) => {
  const page = await browser.newPage();
  page.setDefaultTimeout(60000);
  const wrong = () => page.evaluate(() => (document.querySelector("#said.wrong") ?? {}).textContent);
  await page.goto(url);
  await page.waitForFunction(() => window.trimodal);
  await page.setInputFiles("#folder", `${folder}/${name}`);
  await page.waitForFunction(() => document.querySelector("#said.wrong") || document.querySelector("#question button"));
  if (await wrong()) throw new Error(await wrong());
  await fill[name](page, questions[name]);
  await page.click("#question button");
  await page.waitForFunction(() => document.querySelector("#answer table") || document.querySelector("#said.wrong"));
  if (await wrong()) throw new Error(await wrong());
  const rows = await page.$$eval("#answer tr", (all) => all.map((row) => [row.cells[0].textContent, Number(row.cells[2].textContent)]));
  await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
  return rows;
};
const answers = {};
for (const name of Object.keys(questions)) {
  try { answers[name] = await ask(name); } catch (error) { answers[name] = { error: error.message }; }
}
await browser.close();
console.log(JSON.stringify(answers));
