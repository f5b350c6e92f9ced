import { Ollama } from "ollama";
import assert from "node:assert/strict";

const client = new Ollama({ host: process.argv[2] });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const asked = { model: "starter", messages, options: { num_predict: 8, temperature: 0 } };

const whole = await client.chat(asked);
let text = "";
let last;
for await (const part of await client.chat({ ...asked, stream: true })) {
  text += part.message.content;
  last = part;
}
assert.equal(text, whole.message.content);
assert.deepEqual([last.done, last.eval_count], [true, whole.eval_count]);

const city = { type: "object", properties: { city: { enum: ["Paris"] } }, required: ["city"] };
const shaped = await client.chat({ ...asked, format: city, options: { num_predict: 30, temperature: 0 } });
assert.equal(JSON.parse(shaped.message.content).city, "Paris");

const generated = await client.generate({ model: "starter", prompt: "Hello", options: { num_predict: 4 } });
assert.ok(generated.done);
assert.equal((await client.embed({ model: "starter", input: ["a", "b"] })).embeddings.length, 2);
assert.ok((await client.list()).models.length > 0);
assert.ok((await client.show({ model: "starter" })).template.length > 0);
assert.ok((await client.ps()).models.length > 0);
assert.match((await client.version()).version, /^\d+\.\d+\.\d+/);
await assert.rejects(client.chat({ ...asked, model: "absent" }), { status_code: 404 });
console.log("all passed");
