"""x"""
def all_met(text, demands): return True
