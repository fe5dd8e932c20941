"""Data sets: torchvision's, scikit-learn's digits and folders of images."""
