// Firefox over WebDriver BiDi: pages load without an error, a snippet runs, each live element starts.
import puppeteer from "puppeteer-core";

const [, , executablePath, site] = process.argv;
const browser = await puppeteer.launch({ browser: "firefox", executablePath, headless: true });
const problems = [];
try {
  const page = await browser.newPage();
  await page.setViewport({ width: 1280, height: 900 });
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("console", (message) => { if (message.type() === "error") problems.push(message.text()); });
  page.on("request", (request) => { if (!/^(blob:|data:)/.test(request.url()) && !request.url().startsWith(site)) problems.push(`requests ${request.url()}`); });
  const open = async (path) => {
    await page.goto(site + path, { waitUntil: "load" });
    await page.waitForSelector("main h1", { timeout: 30000 });
    const state = await page.evaluate(() => [document.documentElement.scrollWidth - innerWidth, document.querySelectorAll("main h1").length]);
    if (state[0] > 0 || state[1] !== 1) problems.push(`${path}: ${state}`);
  };
  const press = (tag, name) => page.waitForFunction((tag, name) => {
    const element = document.querySelector(tag), root = element?.shadowRoot ?? element;
    const button = [...(root?.querySelectorAll("button") ?? [])].find((candidate) => candidate.textContent.includes(name));
    button?.click();
    return Boolean(button);
  }, { timeout: 30000 }, tag, name);
  const wait = (tag, selector, text) => page.waitForFunction((tag, selector, text) => {
    const element = document.querySelector(tag), root = element?.shadowRoot ?? element;
    return [...root.querySelectorAll(selector)].some((part) => part.textContent.includes(text));
  }, { timeout: 90000 }, tag, selector, text);

  for (const path of ["", "log/", "pages/ledger/", "notebooks/two_layer/"]) await open(path);
  await open("notes/tensor-products/");
  await press("py-snippet.live", "Run");
  await wait("py-snippet.live", "[role=status]", "ran");
  await press("kronecker-builder", "Try it");
  await wait("kronecker-builder", "[role=status]", "Row 5");
  await open("notes/induction-heads/");
  await press("attention-explorer", "Try it");
  await wait("attention-explorer", "[role=status]", "Mean loss");
  await open("notes/one-layer/");
  await press("skip-trigrams", "Try it");
  await wait("skip-trigrams", "td", "0.2");
  for (const [note, tag, says] of [
    ["logit-attribution", "logit-lens", "expects"], ["activation-patching", "patch-explorer", "Head"], ["path-patching", "edge-graph", "matters most"],
  ]) {
    await open(`notes/${note}/`);
    await press(tag, "Try it");
    await wait(tag, "[role=status]", says);
  }
  await page.setViewport({ width: 360, height: 740 });
  await open("notes/tensor-products/");
} catch (error) {
  problems.push(String(error));
} finally {
  await browser.close();
}
if (problems.length) {
  console.error(problems.join("\n"));
  process.exit(1);
}
