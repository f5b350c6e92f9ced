"""temporary"""

import jinja2


class ChatTemplate:
    opens_reasoning = False

    def __init__(self, source, bos, eos):
        self.t = jinja2.Environment().from_string(source)
        self.bos = bos
        self.eos = eos

    def render(self, messages, *, tools=(), think=None):
        return self.t.render(
            messages=[{"role": m.role, "content": m.content} for m in messages],
            add_generation_prompt=True,
            bos_token=self.bos,
            eos_token=self.eos,
        )
