// What the scripts beside this one drive Chromium with. They get LINK, SCREENSHOTS
// and CHROMIUM in the environment, and talk to the Go test over stdin and stdout, a
// line each way: a script says what it is ready for, the test answers by doing it.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import path from "node:path";

const require = createRequire(path.resolve("web/package.json"));
const { chromium } = require("playwright-core");
const axeSource = require("axe-core").source;

const { SCREENSHOTS, CHROMIUM } = process.env;
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

export const say = async (line) => {
  console.log(line);
  const { value, done } = await answers.next();
  if (done) throw new Error(`no answer to ${line}`);
  return value;
};

export const check = (ok, what) => {
  if (!ok) throw new Error(what);
};

/** Pictures of a page in both themes at both widths, and axe on each. */
export async function look(page, name) {
  for (const [width, height, device] of [[1280, 860, "desktop"], [360, 740, "phone"]]) {
    await page.setViewportSize({ width, height });
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.screenshot({ path: `${SCREENSHOTS}/${name}-${device}-${colorScheme}.png` });
      await page.evaluate(axeSource);
      const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
      check(
        violations.length === 0,
        `axe on ${name} (${device}, ${colorScheme}): ${JSON.stringify(violations.map((v) => ({ id: v.id, nodes: v.nodes.map((n) => [n.html, n.failureSummary]) })), null, 1)}`,
      );
      const sideways = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
      check(!sideways, `${name} (${device}) scrolls sideways`);
    }
  }
  await page.setViewportSize({ width: 1280, height: 860 });
}

/** Runs a script in a browser; what the page complains of fails it, but for what is meant. */
export async function drive(script, meant) {
  const browser = await chromium.launch({
    executablePath: CHROMIUM,
    timeout: 180_000,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  const problems = [];
  let page;
  try {
    page = await (await browser.newContext()).newPage();
    page.setDefaultTimeout(90_000); // what is waited for comes in a moment, but on a busy machine
    page.on("pageerror", (error) => problems.push(`page error: ${error.message}`));
    page.on("console", (m) => {
      if (m.type() === "error" && !meant.test(m.text())) problems.push(`console: ${m.text()}`);
    });
    page.on("request", (r) => {
      if (new URL(r.url()).origin !== new URL(process.env.LINK).origin && !r.url().startsWith("data:")) problems.push(`request to ${r.url()}`);
    });
    await script(page, browser);
    check(problems.length === 0, problems.join("\n"));
    console.log("done");
  } catch (error) {
    console.error(error, problems.join("\n"));
    await page?.screenshot({ path: `${SCREENSHOTS}/failed.png` }).catch(() => undefined);
    process.exitCode = 1;
  } finally {
    await browser.close();
    process.stdin.destroy();
  }
}
