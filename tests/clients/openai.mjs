import OpenAI from "openai";
import assert from "node:assert/strict";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none" });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const asked = { model: "starter", messages, max_tokens: 8, temperature: 0 };

const whole = await client.chat.completions.create(asked);
const stream = await client.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true } });
let text = "";
let usage;
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

const city = { type: "object", properties: { city: { enum: ["Paris"] } }, required: ["city"], additionalProperties: false };
const tools = [{ type: "function", function: { name: "look_up", description: "Look up a city.", parameters: city } }];
const called = await client.chat.completions.create({ ...asked, tools, tool_choice: "required", max_tokens: 60 });
const [call] = called.choices[0].message.tool_calls;
assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ["look_up", { city: "Paris" }]);

const format = { type: "json_schema", json_schema: { name: "city", schema: city, strict: true } };
const shaped = await client.chat.completions.create({ ...asked, response_format: format, max_tokens: 30 });
assert.deepEqual(JSON.parse(shaped.choices[0].message.content), { city: "Paris" });

const response = await client.responses.create({ model: "starter", input: "Say hello.", max_output_tokens: 8 });
assert.ok(response.output_text.length > 0);
const next = await client.responses.create({
  model: "starter", input: "Again.", previous_response_id: response.id, max_output_tokens: 8, stream: true,
});
const kinds = [];
for await (const event of next) kinds.push(event.type);
assert.equal(kinds[0], "response.created");
assert.ok(["response.completed", "response.incomplete"].includes(kinds.at(-1)), kinds.at(-1));

const embedded = await client.embeddings.create({ model: "starter", input: ["a", "b"] });
assert.equal(embedded.data.length, 2);
assert.ok((await client.models.list()).data.length > 0);
await assert.rejects(client.chat.completions.create({ ...asked, model: "absent" }), { status: 404, code: "model_not_found" });

const leaving = new AbortController();
const long = await client.chat.completions.create(
  { ...asked, max_tokens: 4000, ignore_eos: true, stream: true }, { signal: leaving.signal });
for await (const _ of long) { leaving.abort(); break; }
console.log("all passed");
