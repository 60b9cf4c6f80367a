// Looks at the cache of an org: before anything is saved, with entries, by filter, and
// removes one by keyboard. See drive.mjs.
import { check, drive, look, say } from "./drive.mjs";

const { LINK } = process.env;

await drive(async (page) => {
  await page.goto(LINK);
  await page.getByRole("link", { name: "Cache", exact: true }).click();
  await page.getByRole("heading", { name: "Nothing is cached yet" }).waitFor();
  await look(page, "cache-empty");

  await say("save");
  await page.reload();
  const list = page.getByRole("list", { name: "Entries, newest first" });
  const rows = list.getByRole("listitem");
  // The page goes on showing what it did for a moment after it was asked for less.
  const fewer = async (n) => {
    await rows.nth(n).waitFor({ state: "detached" });
    await rows.nth(n - 1).waitFor();
  };
  await rows.first().waitFor();
  check((await rows.count()) === 50, `${await rows.count()} entries are shown at once`);
  await page.getByRole("list", { name: "Being saved" }).getByText("deps/under-way", { exact: true }).waitFor();
  await page.getByRole("button", { name: "Show more" }).click();
  await list.getByText("deps/first", { exact: true }).waitFor();
  check((await page.getByRole("meter", { name: "Of the org's quota" }).count()) === 1, "no meter");
  await page.getByText("the org's own jobs").first().waitFor();
  await look(page, "cache");
  await page.setViewportSize({ width: 360, height: 740 });
  const sideways = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
  check(!sideways, "at 360 px it scrolls sideways");
  await page.setViewportSize({ width: 1280, height: 860 });

  await page.getByRole("textbox", { name: "Keys that begin with" }).fill("deps/");
  await page.keyboard.press("Enter");
  await page.waitForURL(/prefix=deps/);
  await fewer(2);
  check((await rows.count()) === 2, `${await rows.count()} entries begin with deps/`);
  await page.getByRole("textbox", { name: "Repository" }).fill("octo/none");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "No entry matches this filter" }).waitFor();
  check((await page.getByRole("list", { name: "Being saved" }).count()) === 0, "an upload passes the filter");
  await page.getByRole("button", { name: "Show all" }).click();
  await rows.nth(2).waitFor(); // then the filter is empty, too
  await page.getByRole("textbox", { name: "Keys that begin with" }).fill("deps/");
  await page.keyboard.press("Enter");
  await fewer(2);
  check((await rows.count()) === 2, "the filter does not come back");

  // What is asked for is asked again, and Escape keeps it.
  const dialog = page.getByRole("dialog", { name: "Remove this entry?" });
  await page.getByRole("button", { name: "Remove deps/first" }).focus();
  await page.keyboard.press("Enter");
  await dialog.getByText("deps/first", { exact: true }).waitFor();
  await look(page, "cache-remove");
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
  check((await rows.count()) === 2, "Escape removes");
  await page.locator(":focus").and(page.getByRole("button", { name: "Remove deps/first" })).waitFor(); // one goes on from there
  await page.keyboard.press("Enter");
  // Who is fast asks again before the browser has told of the end of the first.
  for (let i = 0; i < 20; i++) await Promise.all([page.keyboard.press("Escape"), page.keyboard.press("Enter")]);
  await dialog.getByRole("button", { name: "Remove" }).focus();
  await page.keyboard.press("Enter");
  await dialog.waitFor({ state: "detached" });
  await list.getByText("deps/first", { exact: true }).waitFor({ state: "detached" });
  check((await rows.count()) === 1, "more than one entry is gone");
  await say("gone");
}, /401/);
