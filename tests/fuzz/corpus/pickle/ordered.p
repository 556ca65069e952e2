ccollections
OrderedDict
((lp0
(S'a'
I1
la(S'b'
I2
latR.