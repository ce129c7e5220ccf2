// Opens FOLDER/index.html in headless Chromium as a person does, as a file and from ADDRESS; asks every model there, and tries what may
// go wrong. node page.mjs FOLDER ADDRESS CHROMIUM: prints one JSON object, answers by model and manners. What the page takes from the
// web, its content delivery network, is given out of node_modules; nothing else of the web is there.
import { copyFileSync, cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [folder, address, executablePath] = process.argv.slice(2);
const questions = JSON.parse(readFileSync(`${folder}/questions.json`));
const ASKED = 3; // pictures or sounds per model
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync"] });
const file = `file://${folder}/index.html`;
const TYPES = { mjs: "text/javascript", js: "text/javascript", wasm: "application/wasm" };

const openPage = async (url, { online = true, width = 1000 } = {}) => {
  const page = await browser.newPage({ viewport: { width, height: 800 } });
  page.setDefaultTimeout(60000);
  await page.route(/^https:/, (route) => {
    const [, name, path] = /^https:\/\/cdn\.jsdelivr\.net\/npm\/((?:@[^/]+\/)?[^/@]+)@[^/]+\/(.*)$/.exec(route.request().url()) ?? [];
    if (!name || !online) return route.abort();
    return route.fulfill({ path: `node_modules/${name}/${path}`, contentType: TYPES[path.split(".").pop()], headers: { "access-control-allow-origin": "*" } });
  });
  await page.goto(url);
  await page.waitForSelector("html[data-ready]", { state: "attached" });
  return page;
};
const said = (page) => page.textContent("#said");
const settled = (page, shown) => page.waitForFunction((selector) => document.querySelector(selector) || document.querySelector("#said.wrong"), shown);
const pick = async (page, chosen) => {
  await page.setInputFiles("#folder", chosen);
  await settled(page, "#asking:not([hidden])");
  if (await page.$("#said.wrong")) throw new Error(await said(page));
};
const readAnswer = async (page) => {
  await settled(page, "#answering:not([hidden])");
  if (await page.$("#said.wrong")) throw new Error(await said(page));
  if (await page.$("#answer blockquote")) return [[await page.textContent("#answer blockquote"), 1]];
  return page.$$eval("#answer tr", (all) => all.map((row) => [row.cells[0].textContent, Number(row.cells[2].textContent)]));
};
const FILL = {
  minilm: (page, q, i) => page.fill("#sentences", [q.sentences[i], ...q.sentences.filter((_, k) => k !== i)].join("\n")),
  vit: (page, q, i) => page.setInputFiles("#image", q.images[i]),
  whisper: (page, q, i) => page.setInputFiles("#audio", q.sounds[i]),
  async clip(page, q, i) { await page.setInputFiles("#image", q.images[i]); await page.fill("#texts", q.names.join("\n")); },
};

const ask = async (name) => {
  const page = await openPage(file);
  await pick(page, `${folder}/${name}`);
  const found = [];
  for (let i = 0; i < ASKED; i++) {
    await FILL[name](page, questions[name], i);
    await page.click("#question button");
    found.push(await readAnswer(page));
  }
  await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
  await page.close();
  return found;
};

// Folders with something wrong, made of a model's own.
const [some] = Object.keys(questions);
const spoil = (name, change) => {
  const place = `${folder}/spoiled-${name}`;
  rmSync(place, { recursive: true, force: true });
  cpSync(`${folder}/${some}`, place, { recursive: true });
  change(place, JSON.parse(readFileSync(`${place}/export.json`)));
  return place;
};
const refusal = async (chosen, expected) => {
  const page = await openPage(file);
  const text = await pick(page, chosen).then(() => "it was opened", (error) => error.message);
  await page.close();
  return text.includes(expected) ? "" : `the page said: ${text}`;
};

const MANNERS = {
  "a folder without export.json is refused in words": () => {
    mkdirSync(`${folder}/spoiled-other`, { recursive: true });
    copyFileSync(`${folder}/questions.json`, `${folder}/spoiled-other/questions.json`);
    return refusal(`${folder}/spoiled-other`, "There is no export.json in that folder");
  },
  "a folder without a model file is refused in words": () =>
    refusal(spoil("missing", (place, said) => rmSync(`${place}/${said.components[0].files[0]}`)), "is missing in that folder"),
  "a model file that is no ONNX is refused in words": () =>
    refusal(spoil("cut", (place, said) => writeFileSync(`${place}/${said.components[0].files[0]}`, "no model")), "cannot read the model's files"),
  "a folder of another format is refused in words": () =>
    refusal(spoil("openvino", (place, said) => writeFileSync(`${place}/export.json`, JSON.stringify({ ...said, to: "openvino", runtime: "openvino" }))), "--to onnx"),
  async "without the web it says what to do"() {
    const page = await openPage(file, { online: false });
    const text = await said(page);
    await page.close();
    return text.includes("Is this computer online?") ? "" : `the page said: ${text}`;
  },
  async "a wrong picture or recording, or none, is refused in words"() {
    for (const name of ["vit", "whisper"].filter((one) => one in questions)) {
      const page = await openPage(file);
      await pick(page, `${folder}/${name}`);
      await page.click("#question button");
      const first = await readAnswer(page).catch((error) => error.message);
      await page.setInputFiles(name === "vit" ? "#image" : "#audio", `${folder}/questions.json`);
      await page.click("#question button");
      await page.waitForFunction(() => document.querySelector("#said").textContent.includes("cannot be read")).catch(() => {});
      const second = await said(page);
      await page.close();
      if (!/^Choose a (picture|recording) first/.test(first) || !second.includes("cannot be read as a")) return `${name}: ${first} / ${second}`;
    }
    return "";
  },
  async "asked by keyboard alone, from a server with the packages beside it"() {
    const page = await openPage(`${address}/index.html?packages=node_modules`);
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    await page.keyboard.type(`./${some}`);
    await page.keyboard.press("Enter");
    await settled(page, "#asking:not([hidden])");
    if (await page.$("#said.wrong")) return said(page);
    await FILL[some](page, questions[some], 0);
    const reached = async () => page.evaluate(() => document.activeElement.closest("#question") && document.activeElement.tagName === "BUTTON");
    for (let i = 0; i < 12 && !(await reached()); i++) await page.keyboard.press("Tab");
    await page.keyboard.press("Enter");
    const found = await readAnswer(page).catch((error) => error.message);
    await page.close();
    return Array.isArray(found) && found.length ? "" : `the page said: ${found}`;
  },
  async "opened by ?model=, as wide as a telephone, nothing sticks out"() {
    const page = await openPage(`${address}/index.html?packages=node_modules&model=${some}`, { width: 360 });
    await settled(page, "#asking:not([hidden])");
    await FILL[some](page, questions[some], 0);
    await page.click("#question button");
    const found = await readAnswer(page).catch((error) => error.message);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    await page.screenshot({ path: `${folder}/telephone.png`, fullPage: true });
    await page.close();
    return Array.isArray(found) && wide <= 360 ? "" : `${found}; ${wide} pixels wide`;
  },
  async "every field has a label"() {
    const page = await openPage(`${address}/index.html?packages=node_modules&model=${some}`);
    await settled(page, "#asking:not([hidden])");
    const bare = await page.$$eval("input, textarea, select", (all) => all.filter((field) => !field.labels.length).map((field) => field.id));
    await page.close();
    return bare.join(", ");
  },
};

const answers = {}, manners = {};
for (const name of Object.keys(questions)) {
  try { answers[name] = await ask(name); } catch (error) { answers[name] = { error: error.message }; }
}
for (const [what, run] of Object.entries(MANNERS)) {
  try { manners[what] = await run(); } catch (error) { manners[what] = error.message; }
}
await browser.close();
console.log(JSON.stringify({ answers, manners }));
