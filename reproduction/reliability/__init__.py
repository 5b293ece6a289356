"""Try many faulty inputs, interruptions and loads, and record how the project answers.

``registry`` lists the checks, ``page`` makes docs/reliability.md from their records.
"""
