"""From uploaded files to a version: received, admitted, examined, published."""
