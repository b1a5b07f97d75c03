/** Answers in the order of their questions: one that a later question's answer has overtaken is old, and not taken. */
export class InOrder {
  private asked = 0;
  private taken = 0;

  /** Call it with the question; what it gives says, with the answer, whether that is to be taken. */
  ask(): () => boolean {
    const mine = ++this.asked;
    return () => {
      if (mine < this.taken) return false;
      this.taken = mine;
      return true;
    };
  }
}
