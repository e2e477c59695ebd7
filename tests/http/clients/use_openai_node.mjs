// OpenAI's package for Node.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { baseURL, expect, hello, model, report } from "./report.mjs";

const api = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: hello }];
const city = { type: "object", properties: { city: { enum: ["Paris", "Oslo"] } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "weather", description: "The weather", parameters: city } }];

await report("openai", {
  async chat() {
    const answer = await api.chat.completions.create({ model, messages, max_tokens: 24 });
    expect(answer.choices[0].message.content, "no text");
  },
  async stream() {
    const events = api.chat.completions.stream({ model, messages, max_tokens: 24 });
    let text = "";
    for await (const event of events) text += event.choices[0]?.delta?.content ?? "";
    expect(text && text === (await events.finalContent()), "another text at the end");
  },
  async tools() {
    const wish = { model, messages, tools, max_tokens: 200 };
    const { message } = (await api.chat.completions.create({ ...wish, tool_choice: "required" })).choices[0];
    const [call] = message.tool_calls;
    expect(["Paris", "Oslo"].includes(JSON.parse(call.function.arguments).city), "another city");
    const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
    await api.chat.completions.create({ ...wish, messages: [...messages, message, result] });
  },
  async structured_output() {
    const form = z.object({ city: z.enum(["Paris", "Oslo"]), sunny: z.boolean() });
    const answer = await api.chat.completions.parse({
      model, messages, max_tokens: 200, response_format: zodResponseFormat(form, "answer"),
    });
    expect(typeof answer.choices[0].message.parsed.sunny === "boolean", "no object");
  },
  async embeddings() {
    expect((await api.embeddings.create({ model, input: ["one", "two"] })).data.length === 2, "not two");
  },
});
