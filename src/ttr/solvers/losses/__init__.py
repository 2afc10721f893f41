"""What a solver that trains by gradients descends: the error of one prediction. One public class per file."""
