// Looks at the shells of a job, and plays what one showed. See drive.mjs.
import { check, drive, look, say } from "./drive.mjs";

const { LINK } = process.env;

await drive(async (page) => {
  await page.goto(LINK);
  await page.getByRole("heading", { name: "Jobs", exact: true }).waitFor();
  await say("job");
  await page.getByRole("link", { name: /Look inside/ }).first().click();
  await page.getByTestId("standing").getByText("Failed").waitFor();
  const held = page.getByTestId("held");
  await held.getByText("Its sandbox stays").waitFor();

  await say("shell");
  const shells = page.getByTestId("shells");
  await shells.getByText("exit code 7").waitFor();
  await shells.getByRole("button", { name: "Show recording" }).first().click();
  const player = page.getByTestId("player");
  const shown = player.getByRole("region", { name: "What the terminal showed" });
  await shown.getByText("from inside").waitFor();
  check((await shown.locator(".ansi-green-fg").textContent()) === "green", "what was green is not");
  await look(page, "shells");

  // From the beginning, to the end by itself.
  await player.getByRole("slider", { name: "Time" }).press("Home");
  await shown.getByText("from inside").waitFor({ state: "detached" });
  await player.getByRole("button", { name: "Play" }).click();
  await shown.getByText("from inside").waitFor();
  await player.getByRole("button", { name: "Play" }).waitFor();

  await held.getByRole("button", { name: "Give it up" }).click();
  await held.waitFor({ state: "detached" });
}, /401/);
