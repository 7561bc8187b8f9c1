// Validates the AsyncAPI document whose path is the first argument with AsyncAPI's own parser. Prints each finding. Exits with 1 if one is an
// error or a warning.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";

const path = process.argv[2];
const { document, diagnostics } = await new Parser().parse(readFileSync(path, "utf8"));
const names = ["error", "warning", "information", "hint"];
for (const { severity, message, path: where } of diagnostics) {
  console.log(`${names[severity]}: ${where.join(".")}: ${message}`);
}
const failed = !document || diagnostics.some(({ severity }) => severity <= 1);
if (!failed) {
  console.log(`${path}: valid, ${document.operations().all().length} operations, ${document.messages().all().length} messages`);
}
process.exit(failed ? 1 : 0);
