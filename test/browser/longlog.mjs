// Reads the log of a million lines as a person would: its end, a line by its link, what
// is folded, all by the keyboard too. See drive.mjs.
import { check, drive, look } from "./drive.mjs";

const { LINK } = process.env;

await drive(async (page) => {
  await page.goto(LINK);
  await page.getByRole("heading", { name: "Jobs", exact: true }).waitFor();
  await page.getByRole("link", { name: /Long log/ }).click();
  await page.getByRole("heading", { name: "Long log" }).waitFor();
  const url = page.url();

  // It begins at its end, and what came before is not fetched.
  await page.getByTestId("log-status").getByText("1,000,0").waitFor();
  await page.getByText("the last line", { exact: true }).waitFor();
  const status = await page.getByTestId("log-status").textContent();
  check(/complete/.test(status), `the log says ${status}`);

  // A line in the midst, by its link.
  await page.goto(`${url}#L600000`);
  await page.reload();
  await page.getByRole("link", { name: "Line 600000", exact: true }).waitFor();
  await page.getByText("line 599997", { exact: true }).waitFor();
  await look(page, "longlog");

  // Row by row, and to both ends, by the keyboard.
  const log = page.getByRole("log");
  await log.focus();
  for (let i = 0; i < 40; i++) await page.keyboard.press("ArrowDown");
  await page.getByText("line 600030", { exact: true }).waitFor();
  await page.keyboard.press("Home");
  await page.getByText("before all", { exact: true }).waitFor();

  // A group folds, and says how much it hides; so do steps. The link led into this one.
  const group = page.getByRole("button", { name: /Many <lines>/ });
  await group.waitFor();
  check((await group.getAttribute("aria-expanded")) === "true", "the group that a link led into is folded");
  await group.click();
  check(/999,998 lines/.test(await group.textContent()), `the group says ${await group.textContent()}`);
  await page.getByText("the last line", { exact: true }).waitFor(); // it is right below
  await look(page, "longlog-folded");
  await group.click();
  await page.getByText("line 5", { exact: true }).waitFor();
  const step = page.getByRole("button", { name: /Everything/ });
  await step.click();
  check((await page.getByText("line 5", { exact: true }).count()) === 0, "a folded step shows its lines");
  await step.click();
  await page.getByText("line 5", { exact: true }).waitFor();

  // Without a link, a group that is over is folded. A link opens what its line is in.
  await page.goto(url);
  await page.reload();
  await page.getByText("the last line", { exact: true }).waitFor();
  await group.waitFor();
  check((await group.getAttribute("aria-expanded")) === "false", "a group that is over is open");
  await page.evaluate(() => (window.location.hash = "#L700000"));
  await page.reload();
  await page.getByText("line 699997", { exact: true }).waitFor();

  // The server searches: what is found is shown, marked, and gone through.
  const box = page.getByRole("searchbox", { name: "Search the log" });
  const found = page.getByTestId("log-search");
  await box.fill("LINE 123456");
  await box.press("Enter");
  await found.getByText("Not found", { exact: true }).waitFor();
  await box.fill("line 77777");
  await box.press("Enter");
  // It begins where the reader is, below line 77777, and goes around at both ends.
  await found.getByText("2 of 11", { exact: true }).waitFor();
  await box.press("Enter");
  await found.getByText("3 of 11", { exact: true }).waitFor();
  check((await page.getByRole("mark").or(page.locator("mark")).count()) > 0, "nothing is marked");
  for (const at of ["2", "1", "11"]) {
    await box.press("Shift+Enter");
    await found.getByText(`${at} of 11`, { exact: true }).waitFor();
  }
  await look(page, "longlog-search");
  await page.getByRole("checkbox", { name: "Pattern" }).check();
  await box.fill("^line 9{6}$|last (line|one)$");
  await box.press("Enter");
  await found.getByText("1 of 1", { exact: true }).waitFor();
  await box.fill("(");
  await box.press("Enter");
  await found.getByText(/missing closing/).waitFor();
  await box.press("Escape");
  check((await found.textContent()) === "", "a search that was ended is still told");

  // It takes the memory of what is looked at.
  const heap = await page.evaluate(() => window.performance.memory.usedJSHeapSize / 1e6);
  console.error(`heap: ${heap.toFixed(0)} MB`);
  check(heap < 150, `the page holds ${heap.toFixed(0)} MB`);
}, /400|401/); // 400: a pattern that is none
