// Drives Chromium through the dashboard as a person would: signs in by a
// one-time link, sees a job appear, follows its log to the end.
//
//   node follow.mjs   with LINK, SCREENSHOTS and CHROMIUM in the environment
//
// Talks to the Go test over stdin and stdout, a line each way: it says what it
// is ready for ("list", "job <id>"), the test answers by doing it ("go").
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import path from "node:path";

const require = createRequire(path.resolve("web/package.json"));
const { chromium } = require("playwright-core");
const axeSource = require("axe-core").source;

const { LINK, SCREENSHOTS, CHROMIUM } = process.env;
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = async (line) => {
  console.log(line);
  const { value, done } = await answers.next();
  if (done) throw new Error(`no answer to ${line}`);
  return value;
};
const check = (ok, what) => {
  if (!ok) throw new Error(what);
};

const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

/** Pictures of a page in both themes at both widths, and axe on each. */
async function look(page, name) {
  for (const [width, height, device] of [[1280, 860, "desktop"], [375, 740, "phone"]]) {
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

try {
  const context = await browser.newContext();
  const page = await context.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(`page error: ${error.message}`));
  page.on("console", (m) => {
    // The one 401 before signing in is meant.
    if (m.type() === "error" && !m.text().includes("401")) problems.push(`console: ${m.text()}`);
  });
  page.on("request", (r) => {
    if (new URL(r.url()).origin !== new URL(LINK).origin && !r.url().startsWith("data:")) problems.push(`request to ${r.url()}`);
  });

  await page.goto(new URL("/", LINK).href);
  await page.getByRole("heading", { name: "Sign in to Nimbus" }).waitFor();
  await look(page, "signin");

  await page.goto(LINK);
  await page.getByRole("heading", { name: "Jobs", exact: true }).waitFor();
  check(!page.url().includes("code="), "the one-time code stays in the address bar");
  await page.getByText("No jobs yet").waitFor();
  await page.getByText("Live", { exact: true }).waitFor();
  await look(page, "empty");

  // The job appears by itself.
  const name = await say("list");
  const row = page.getByRole("link", { name: new RegExp(name) });
  await row.waitFor({ timeout: 30_000 });
  await page.keyboard.press("Tab");
  await row.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name }).waitFor();

  // Its first lines are there while it runs, and it waits for the test.
  await page.getByText("first line").waitFor({ timeout: 60_000 });
  await page.getByTestId("standing").getByText("Running").waitFor({ timeout: 30_000 });
  await look(page, "running");
  await say("running");

  // To the end: the last line, every line there, the result.
  await page.getByTestId("log-status").getByText("complete").waitFor({ timeout: 60_000 });
  await page.getByText("last line of 2000").waitFor();
  await page.getByTestId("standing").getByText("Failed").waitFor();
  await page.getByText("exit code 3").waitFor();
  await look(page, "finished");

  // Steps fold; a permalink leads to its line after a reload.
  await page.getByRole("button", { name: /Count/ }).count();
  await page.goto(page.url().replace(/#.*/, "") + "#L40");
  await page.reload();
  await page.getByRole("link", { name: "Line 40", exact: true }).waitFor();

  await page.getByRole("link", { name: "Hosts" }).click();
  await page.getByRole("heading", { name: "Hosts" }).waitFor();
  await page.getByText("trusted code only").first().waitFor();
  await look(page, "hosts");

  // The link works once.
  const stranger = await (await browser.newContext()).newPage();
  const again = await stranger.goto(LINK);
  check(again.status() >= 400, `the used link answers ${again.status()}`);

  check(problems.length === 0, problems.join("\n"));
  console.log("done");
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
  process.stdin.destroy();
}
