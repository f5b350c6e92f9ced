import sys

import litellm

url = sys.argv[1]
messages = [{"role": "user", "content": "What is the capital of France?"}]
found = {}
for name, base in (("openai/starter", f"{url}/v1"), ("ollama_chat/starter", url), ("anthropic/starter", url)):
    asked = {"model": name, "api_base": base, "api_key": "none", "messages": messages}
    asked |= {"max_tokens": 8, "temperature": 0}
    whole = litellm.completion(**asked).choices[0].message.content
    parts = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, stream=True)]
    assert "".join(parts) == whole != "", (name, parts, whole)
    found[name] = whole
assert len(set(found.values())) == 1, found
vectors = litellm.embedding("openai/starter", input=["a", "b"], api_base=f"{url}/v1", api_key="none")
assert len(vectors.data) == 2
print("all passed")
