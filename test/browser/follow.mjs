// Goes through the dashboard as a person would: signs in by a one-time link, sees
// a job appear, follows its log to the end. See drive.mjs.
import { check, drive, look, say } from "./drive.mjs";

const { LINK } = process.env;

// The one 401 before signing in is meant.
await drive(async (page, browser) => {
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
  const name = "Follow me";
  await say("list");
  const row = page.getByRole("link", { name: new RegExp(name) });
  await row.waitFor();
  await page.keyboard.press("Tab");
  await row.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name }).waitFor();

  // Its first lines are there while it runs, and it waits for the test.
  await page.getByText("first line").waitFor();
  await page.getByTestId("standing").getByText("Running").waitFor();
  // What it uses is seen while it runs, by who sees charts and by who reads.
  await page.getByTestId("usage").waitFor();
  // The first figure may be of a moment in which it had none.
  await page.getByRole("img", { name: /^CPU over .+: \d+\.\d\d, at most (?!0\.00)\d+\.\d\d of 1$/ }).waitFor();
  await page.getByRole("img", { name: /^Memory over/ }).waitFor();
  await look(page, "running");
  await say("running");

  // To the end: the last line, every line there, the result.
  await page.getByTestId("log-status").getByText("complete").waitFor();
  await page.getByText("last line of 2000").waitFor();
  await page.getByTestId("standing").getByText("Failed").waitFor();
  await page.getByText("exit code 3").waitFor();
  await page.getByTestId("usage").waitFor();
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
  const again = await stranger.goto(LINK, { timeout: 90_000 });
  check(again.status() >= 400, `the used link answers ${again.status()}`);
}, /401/);
