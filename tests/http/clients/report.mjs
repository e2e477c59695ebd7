// What the script of each client for Node prints: its version, and for each ability true or what went wrong.
import { readFileSync } from "node:fs";

export const [baseURL, model] = process.argv.slice(2);
export const hello = "Hello there";

export async function report(name, checks) {
  const results = {};
  for (const [ability, check] of Object.entries(checks)) {
    try {
      await check();
      results[ability] = true;
    } catch (error) {
      results[ability] = `${error}`.slice(0, 600);
    }
  }
  const { version } = JSON.parse(readFileSync(`node_modules/${name}/package.json`));
  console.log("\n" + JSON.stringify({ version, results }));
}

export function expect(holds, words) {
  if (!holds) throw new Error(words);
}
