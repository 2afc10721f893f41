"""What is done to a matrix of a network: to an update before it is taken, or to an accumulator to get
weights. One public class per file."""
