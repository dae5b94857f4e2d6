# IN and OUT in all sizes, and their string forms.
# mode: long
# expect: 0xddccbbaa 0xbbaa 0xaa 0xffffffff 0x11 0x22 0x33 0xaaaaaaaa
.include "long.inc"
main:
    movl $0xddccbbaa, %eax
    outl %eax, $0x90
    xorl %eax, %eax
    inl $0x90, %eax
    outl %eax, $0x80
    xorl %eax, %eax
    inw $0x90, %ax
    outl %eax, $0x80
    xorl %eax, %eax
    inb $0x90, %al
    outl %eax, $0x80
    inl $0x70, %eax
    outl %eax, $0x80
    movw $0x80, %dx
    movq $list, %rsi
    movl $3, %ecx
    rep outsl
    movw $0x90, %dx
    movl $0x20001, %edi
    movl $5000, %ecx
    rep insb
    report 0x20f00
    finish
list: .long 0x11, 0x22, 0x33
